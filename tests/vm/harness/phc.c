/* In a guest: phc IFNAME PORT COUNT reads the PTP clock, the hardware times of COUNT datagrams, and
 * the clock again; a line for each. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void print(const char *what, const struct timespec *t)
{
    printf("%s %lld.%09ld\n", what, (long long)t->tv_sec, t->tv_nsec);
    fflush(stdout);
}

static void print_clock(int fd)
{
    struct timespec t;
    if (clock_gettime(~(unsigned)fd << 3 | 3, &t)) /* the clock of a descriptor, as the kernel has it */
        fail("clock_gettime");
    print("clock", &t);
}

static void print_datagram(int sock)
{
    char data[64], room[512];
    struct iovec part = {data, sizeof data};
    struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room,
                         .msg_controllen = sizeof room};
    if (recvmsg(sock, &msg, 0) < 0)
        fail("recvmsg");
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPING)
            print("frame", &((struct scm_timestamping *)CMSG_DATA(c))->ts[2]);
}

int main(int argc, char **argv)
{
    int on = SOF_TIMESTAMPING_RX_HARDWARE | SOF_TIMESTAMPING_RAW_HARDWARE;
    struct hwtstamp_config config = {.tx_type = HWTSTAMP_TX_OFF, .rx_filter = HWTSTAMP_FILTER_ALL};
    struct ifreq request = {.ifr_data = (char *)&config};
    struct sockaddr_in here = {.sin_family = AF_INET};
    int fd = open("/dev/ptp0", O_RDONLY), sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (argc != 4 || fd < 0 || sock < 0)
        fail("phc");
    strncpy(request.ifr_name, argv[1], IFNAMSIZ - 1);
    here.sin_port = htons(atoi(argv[2]));
    if (ioctl(sock, SIOCSHWTSTAMP, &request))
        fail("SIOCSHWTSTAMP");
    if (setsockopt(sock, SOL_SOCKET, SO_TIMESTAMPING, &on, sizeof on))
        fail("SO_TIMESTAMPING");
    print_clock(fd); /* before the first datagram can come */
    if (bind(sock, (struct sockaddr *)&here, sizeof here))
        fail("bind");
    for (int i = 0; i < atoi(argv[3]); i++)
        print_datagram(sock);
    print_clock(fd);
    return 0;
}
