/* Large datagrams for a guest without a program that sends them (UDP_SEGMENT): COUNT of BYTES in pieces
 * of PIECE to 10.90.0.2 and to fd90::2, port 9.  Without a C library, to be small.
 */
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum { COUNT = 20, BYTES = 14000, PIECE = 1200, UDP_LEVEL = 17, UDP_SEGMENT_OPTION = 103 };

static char data[BYTES];

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static int send_all(int family, const void *to, long size)
{
    int piece = PIECE;
    long fd = call(SYS_socket, family, SOCK_DGRAM, 0, 0, 0, 0);
    if (call(SYS_setsockopt, fd, UDP_LEVEL, UDP_SEGMENT_OPTION, (long)&piece, sizeof(piece), 0))
        return 1;
    for (int i = 0; i < COUNT; i++)
        if (call(SYS_sendto, fd, (long)data, BYTES, 0, (long)to, size) != BYTES)
            return 2;
    return 0;
}

__attribute__((force_align_arg_pointer)) void _start(void)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = 9 << 8};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = 9 << 8};
    v4.sin_addr.s_addr = 0x02005a0a;
    v6.sin6_addr.s6_addr[0] = 0xfd;
    v6.sin6_addr.s6_addr[1] = 0x90;
    v6.sin6_addr.s6_addr[15] = 2;
    for (int i = 0; i < BYTES; i++)
        data[i] = (char)(i % 251);
    int failed = send_all(AF_INET, &v4, sizeof(v4)) | send_all(AF_INET6, &v6, sizeof(v6)) << 2;
    call(SYS_exit, failed, 0, 0, 0, 0, 0);
}
