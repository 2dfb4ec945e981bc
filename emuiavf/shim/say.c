/* Messages to the user of `emuiavf exec`. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "shim.h"

static void say_list(const char *format, va_list arguments)
{
    static const char prefix[] = "emuiavf exec: ";
    char line[512];
    int kept = errno;
    size_t at = sizeof(prefix) - 1;

    __builtin_memcpy(line, prefix, at);
    int wrote = vsnprintf(line + at, sizeof(line) - at - 1, format, arguments);
    if (wrote > 0)
        at += (size_t)wrote < sizeof(line) - at - 1 ? (size_t)wrote : sizeof(line) - at - 2;
    line[at++] = '\n';
    if (write(STDERR_FILENO, line, at) < 0) {
        /* Nobody listens; there is nowhere else to say it. */
    }
    errno = kept;
}

void say(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say_list(format, arguments);
    va_end(arguments);
}

int refuse(int error, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say_list(format, arguments);
    va_end(arguments);
    return error;
}
