/* Paths of VFIO and of PCI devices that `emuiavf exec` made up.
 *
 * The private folder named by EMUIAVF_EXEC_DIR holds a small root: what is there under one of the
 * prefixes below is what the program sees, everything else is the machine's own.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "real.h"
#include "shim.h"

static const char *const prefixes[] = {
    "/dev/vfio",
    "/sys/module/vfio",
    "/sys/bus/pci/devices",
    "/sys/kernel/iommu_groups",
};
static const char vfio_folder[] = "/dev/vfio/";
/* Empty: nothing is redirected. */
static char private_root[PATH_MAX];

__attribute__((constructor)) static void find_root(void)
{
    const char *named = getenv("EMUIAVF_EXEC_DIR");

    if (named && named[0] == '/' && strlen(named) < sizeof(private_root))
        strcpy(private_root, named);
}

/* Whether a path may have a counterpart in the private folder. */
static bool has_prefix(const char *path)
{
    if (path == NULL || path[0] != '/' || private_root[0] == 0)
        return false;
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (strncmp(path, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

const char *redirect(const char *path, char *own)
{
    struct stat found;
    int kept = errno;

    if (!has_prefix(path) || strlen(private_root) + strlen(path) >= PATH_MAX)
        return path;
    strcpy(own, private_root);
    strcat(own, path);
    bool there = real()->lstat(own, &found) == 0;
    errno = kept;
    return there ? own : path;
}

bool is_vfio_file(const char *path, char *own, int *group)
{
    const size_t length = sizeof(vfio_folder) - 1;
    struct stat found;
    char *end;

    if (path == NULL || strncmp(path, vfio_folder, length) != 0 || redirect(path, own) != own)
        return false;
    /* The machine's own groups are there too, as symbolic links. */
    if (real()->lstat(own, &found) < 0 || !S_ISREG(found.st_mode))
        return false;
    if (strcmp(path + length, "vfio") == 0) {
        *group = -1;
        return true;
    }
    unsigned long number = strtoul(path + length, &end, 10);
    if (*end != 0 || end == path + length || number > INT_MAX)
        return false;
    *group = (int)number;
    return true;
}
