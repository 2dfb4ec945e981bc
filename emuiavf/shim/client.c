/* One vfio-user connection: a command at a time, every answer judged.
 *
 * After fork both processes have the connection: the lock and the state of the stream are in
 * memory that they share.  Specification: vfio-user (docs/interop/vfio-user.rst of QEMU).
 */
#include "shim.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "real.h"
#include "wire.h"

enum {
    ANSWER_MS = 5000,
    MAX_ERRNO = 4095,
    MAX_REPLY_FDS = 16,
    LEAST_DATA = 4096,
};

struct line {
    pthread_mutex_t mutex;
    bool broken;
    uint16_t next_id;
};

static struct line *line_new(void)
{
    pthread_mutexattr_t attributes;
    struct line *line = real()->mmap(NULL, sizeof(*line), PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (line == MAP_FAILED)
        return NULL;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&line->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return line;
}

/* No further message can be exchanged: nobody knows any more where the next one begins. */
static int give_up(struct client *client, const char *why)
{
    client->line->broken = true;
    shutdown(client->socket, SHUT_RDWR);
    return refuse(EIO, "%s: %s; the device is gone for this program", client->name, why);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

/* Wait until the socket can do what is wanted; false at the deadline. */
static bool wait_for(int socket, short events, int64_t deadline)
{
    struct pollfd watched = {.fd = socket, .events = events};

    for (;;) {
        int64_t left = deadline - now_ms();
        int found = poll(&watched, 1, left > 0 ? (int)left : 0);
        if (found > 0)
            return true;
        if (found == 0 || (errno != EINTR && errno != EAGAIN))
            return false;
    }
}

/* Send the whole message, its descriptors with the first byte.  NULL, or why not. */
static const char *send_all(int socket, struct iovec *parts, size_t num_parts, const int *fds,
                            unsigned num_fds, int64_t deadline, int *refused)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MAX_REPLY_FDS)];
    } control;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = num_parts};
    bool begun = false;

    if (num_fds) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * num_fds);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int) * num_fds);
        memcpy(CMSG_DATA(head), fds, sizeof(int) * num_fds);
    }
    while (message.msg_iovlen) {
        ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EINTR) {
                if (!wait_for(socket, POLLOUT, deadline))
                    return "the server does not read";
                continue;
            }
            if (!begun && num_fds && (errno == EBADF || errno == ETOOMANYREFS)) {
                /* The program's descriptor, and nothing has left: the stream is as it was. */
                *refused = errno;
                return NULL;
            }
            return "the server has left";
        }
        begun = true;
        message.msg_control = NULL;
        message.msg_controllen = 0;
        while (message.msg_iovlen && (size_t)sent >= message.msg_iov->iov_len) {
            sent -= (ssize_t)message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
            message.msg_iov->iov_len -= (size_t)sent;
        }
    }
    return NULL;
}

/* Keep the first descriptor of a message where one is wanted and close all others. */
static void take_fds(struct msghdr *message, int *wanted)
{
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(head) + i * sizeof(int), sizeof(fd));
            if (wanted && *wanted < 0)
                *wanted = fd;
            else
                real()->close(fd);
        }
    }
}

/* Receive exactly `size` bytes; descriptors that come with them go to `fd`, where it is given. */
static const char *receive_all(int socket, void *data, size_t size, int *fd, int64_t deadline)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MAX_REPLY_FDS)];
    } control;
    size_t have = 0;

    while (have < size) {
        struct iovec part = {(char *)data + have, size - have};
        /* Without room for them the kernel closes the descriptors that come with a payload. */
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1,
                                 .msg_control = fd ? control.bytes : NULL,
                                 .msg_controllen = fd ? sizeof(control) : 0};
        ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got == 0)
            return "the server has left";
        if (got < 0) {
            if (errno != EAGAIN && errno != EINTR)
                return "the server has left";
            if (!wait_for(socket, POLLIN, deadline))
                return "the server does not answer (it serves one program at a time)";
            continue;
        }
        if (fd) {
            take_fds(&message, fd);
            if (message.msg_flags & MSG_CTRUNC)
                return "descriptors of an answer were lost";
        }
        have += (size_t)got;
    }
    return NULL;
}

/* Receive the answer to one command.  NULL, or why the stream is over; `*error` is the server's. */
static const char *receive(struct client *client, const struct wire_header *asked,
                           struct reply *reply, int *fd, int *error)
{
    int64_t deadline = now_ms() + ANSWER_MS;
    struct wire_header header;
    char unwanted[64];
    const char *why = receive_all(client->socket, &header, sizeof(header), fd, deadline);

    if (why)
        return why;
    size_t size = header.size - sizeof(header);
    if (header.size < sizeof(header))
        return "an answer is shorter than its header";
    if ((header.flags & WIRE_TYPE_MASK) != WIRE_TYPE_REPLY || header.id != asked->id ||
        header.command != asked->command)
        return "an answer is not the one to the command";
    if (header.flags & WIRE_ERROR) {
        *error = header.error && header.error <= MAX_ERRNO ? (int)header.error : EIO;
        return size ? "an answer with an error has a payload" : NULL;
    }
    bool wanted = reply != NULL;
    if (size > (wanted ? reply->capacity : sizeof(unwanted)))
        return "an answer is longer than can be";
    if (wanted)
        reply->size = size;
    return receive_all(client->socket, wanted ? reply->data : unwanted, size, NULL, deadline);
}

int client_ask(struct client *client, const struct request *request, struct reply *reply)
{
    struct wire_header header = {
        .command = request->command,
        .size = (uint32_t)(sizeof(header) + request->head_size + request->data_size),
    };
    struct iovec parts[] = {
        {&header, sizeof(header)},
        {(void *)request->head, request->head_size},
        {(void *)request->data, request->data_size},
    };
    struct guard guard;
    const char *why;
    int error = 0, fd = -1;

    if (reply) {
        reply->fd = -1;
        reply->size = 0;
    }
    if (request->num_fds > MAX_REPLY_FDS)
        return EINVAL;
    guard_enter(&guard);
    if (pthread_mutex_lock(&client->line->mutex) == EOWNERDEAD) {
        pthread_mutex_consistent(&client->line->mutex);
        /* Another process ended between a command and its answer. */
        error = client->line->broken ? EIO : give_up(client, "a process that shared it has ended");
    } else if (client->line->broken) {
        error = EIO;
    } else {
        header.id = client->line->next_id++;
        why = send_all(client->socket, parts, request->data_size ? 3 : request->head_size ? 2 : 1,
                       request->fds, request->num_fds, now_ms() + ANSWER_MS, &error);
        if (why == NULL && error == 0)
            why = receive(client, &header, reply, &fd, &error);
        if (why)
            error = give_up(client, why);
    }
    pthread_mutex_unlock(&client->line->mutex);
    guard_leave(&guard);
    if (reply && error == 0)
        reply->fd = fd_keep(fd);
    else if (fd >= 0)
        real()->close(fd);
    return error;
}

/* The number behind a key of the server's capabilities; they are one small JSON object. */
static uint32_t capability(const char *json, const char *key, uint32_t otherwise)
{
    const char *at = strstr(json, key);
    char *end;

    if (at == NULL)
        return otherwise;
    at += strlen(key);
    at += strspn(at, "\" \t:");
    unsigned long value = strtoul(at, &end, 10);
    return end == at || value > UINT32_MAX ? otherwise : (uint32_t)value;
}

static int negotiate(struct client *client)
{
    static const char offer[] = "{\"capabilities\":{\"max_msg_fds\":16,\"pgsizes\":4096,"
                                "\"max_data_xfer_size\":1048576}}";
    struct wire_version version = {0, WIRE_MINOR};
    char answer[4096];
    struct reply reply = {.data = answer, .capacity = sizeof(answer) - 1};
    struct request request = {WIRE_VERSION, &version, sizeof(version), offer, sizeof(offer), 0, 0};
    int error = client_ask(client, &request, &reply);

    if (error)
        return error;
    fd_drop(reply.fd);
    answer[reply.size] = 0;
    if (reply.size >= sizeof(version))
        memcpy(&version, answer, sizeof(version));
    if (reply.size < sizeof(version) || version.major != 0 || version.minor > WIRE_MINOR)
        return refuse(EPROTO, "%s: the server speaks another version of vfio-user", client->name);
    const char *json = answer + sizeof(version);
    client->max_fds = capability(json, "max_msg_fds", 1);
    if (client->max_fds > MAX_REPLY_FDS)
        client->max_fds = MAX_REPLY_FDS;
    client->max_data = capability(json, "max_data_xfer_size", 1 << 20);
    if (client->max_fds == 0 || client->max_data < LEAST_DATA)
        return refuse(EPROTO, "%s: the server takes too little in a message", client->name);
    return 0;
}

int client_open(struct client *client, const char *path, const char *name)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(where.sun_path))
        return refuse(ENAMETOOLONG, "%s: the path of the socket is too long", path);
    strcpy(where.sun_path, path);
    *client = (struct client){.socket = -1, .name = name, .line = line_new()};
    if (client->line == NULL)
        return ENOMEM;
    client->socket = fd_keep(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (client->socket < 0) {
        int error = errno;
        client_close(client);
        return error;
    }
    /* Bounds the wait for a place in the server's queue. */
    struct timeval patience = {.tv_sec = ANSWER_MS / 1000};
    setsockopt(client->socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(client->socket, (struct sockaddr *)&where, sizeof(where)) < 0) {
        int error = errno;
        client_close(client);
        return refuse(ENODEV, "%s: %s; is `emuiavf run` serving it?", path, strerror(error));
    }
    int error = negotiate(client);
    if (error)
        client_close(client);
    return error;
}

void client_close(struct client *client)
{
    fd_drop(client->socket);
    if (client->line)
        real()->munmap(client->line, sizeof(*client->line));
    client->socket = -1;
    client->line = NULL;
}
