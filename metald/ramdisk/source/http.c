/* A plain HTTP/1.1 client: one request per connection, a body of known length, numeric or DNS host names.
 *
 * Every wait has an end (SO_RCVTIMEO, SO_SNDTIMEO), so a server that goes silent is noticed.
 */
#include "ramdisk.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define SILENCE_SECONDS 20

struct target {
    char host[256];
    char port[8];
    const char *path;
    bool brackets;
};

static bool split_url(const char *url, struct target *target)
{
    if (strncmp(url, "http://", 7) != 0)
        return false;
    const char *host = url + 7;
    const char *end;
    target->brackets = *host == '[';
    if (target->brackets) {
        host++;
        end = strchr(host, ']');
        if (!end)
            return false;
    } else {
        end = host + strcspn(host, ":/");
    }
    size_t size = (size_t)(end - host);
    if (size == 0 || size >= sizeof target->host)
        return false;
    memcpy(target->host, host, size);
    target->host[size] = 0;
    if (target->brackets)
        end++;
    strcpy(target->port, "80");
    if (*end == ':') {
        size = strcspn(++end, "/");
        if (size == 0 || size >= sizeof target->port)
            return false;
        memcpy(target->port, end, size);
        target->port[size] = 0;
        end += size;
    }
    target->path = *end ? end : "/";
    return *end == 0 || *end == '/';
}

static int dial(struct http *http, const struct target *target)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int wrong = getaddrinfo(target->host, target->port, &hints, &found);
    if (wrong) {
        snprintf(http->error, sizeof http->error, "cannot resolve %.200s: %s", target->host, gai_strerror(wrong));
        return -1;
    }
    struct timeval limit = {.tv_sec = SILENCE_SECONDS};
    for (struct addrinfo *one = found; one && http->fd < 0; one = one->ai_next) {
        int fd = socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol);
        if (fd < 0)
            continue;
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        if (connect(fd, one->ai_addr, one->ai_addrlen) == 0) {
            http->fd = fd;
        } else {
            snprintf(http->error, sizeof http->error, "cannot connect to %.150s port %s: %s", target->host, target->port, strerror(errno));
            close(fd);
        }
    }
    freeaddrinfo(found);
    return http->fd < 0 ? -1 : 0;
}

static const char *header(const struct http *http, const char *name)
{
    size_t size = strlen(name);
    for (const char *line = strstr(http->head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, size) == 0 && line[size] == ':')
            return line + size + 1 + strspn(line + size + 1, " \t");
    }
    return NULL;
}

static int read_head(struct http *http)
{
    char *end = NULL;
    while (!end) {
        if (http->have >= sizeof http->head - 1) {
            snprintf(http->error, sizeof http->error, "the answer's header is too long");
            return -1;
        }
        ssize_t got = recv(http->fd, http->head + http->have, sizeof http->head - 1 - http->have, 0);
        if (got <= 0) {
            snprintf(http->error, sizeof http->error, "no answer: %s", got ? strerror(errno) : "connection closed");
            return -1;
        }
        http->have += (size_t)got;
        http->head[http->have] = 0;
        end = strstr(http->head, "\r\n\r\n");
    }
    *end = 0; /* headers are looked up in text that ends here */
    http->used = (size_t)(end - http->head) + 4;
    if (sscanf(http->head, "HTTP/1.%*c %3d", &http->status) != 1) {
        snprintf(http->error, sizeof http->error, "the answer is not HTTP");
        return -1;
    }
    const char *length = header(http, "Content-Length");
    const char *range = header(http, "Content-Range");
    http->length = length ? atoll(length) : -1;
    http->start = 0;
    if (http->status == 206 && (!range || sscanf(range, "bytes %lld-", &http->start) != 1)) {
        snprintf(http->error, sizeof http->error, "the answer has no valid Content-Range");
        return -1;
    }
    return 0;
}

/* Send a request and read the answer's header. Returns 0 with `status` set, or -1 with `error` set. */
int http_open(struct http *http, const char *method, const char *url, const char *body, long long from)
{
    struct target target;
    char request[4096], range[64] = "";
    memset(http, 0, sizeof *http);
    http->fd = -1;
    http->length = -1;
    if (!split_url(url, &target)) {
        snprintf(http->error, sizeof http->error, "not a plain http URL");
        return -1;
    }
    if (dial(http, &target))
        return -1;
    if (from > 0)
        snprintf(range, sizeof range, "Range: bytes=%lld-\r\n", from);
    size_t length = body ? strlen(body) : 0;
    int size = snprintf(request, sizeof request,
                        "%s %s HTTP/1.1\r\nHost: %s%s%s:%s\r\nUser-Agent: metald-ramdisk\r\nConnection: close\r\n%s"
                        "%s%s%zu\r\n\r\n",
                        method, target.path, target.brackets ? "[" : "", target.host, target.brackets ? "]" : "", target.port, range,
                        body ? "Content-Type: application/x-www-form-urlencoded\r\n" : "", "Content-Length: ", length);
    if (size < 0 || (size_t)size >= sizeof request) {
        snprintf(http->error, sizeof http->error, "the URL is too long");
    } else if (write_all(http->fd, request, (size_t)size) || (length && write_all(http->fd, body, length))) {
        snprintf(http->error, sizeof http->error, "cannot send the request: %s", strerror(errno));
    } else if (read_head(http) == 0) {
        return 0;
    }
    http_close(http);
    return -1;
}

/* The next bytes of the body; 0 at its end, -1 with `error` set when the connection failed. */
ssize_t http_read(struct http *http, void *buffer, size_t size)
{
    if (http->used < http->have) {
        size_t part = http->have - http->used < size ? http->have - http->used : size;
        memcpy(buffer, http->head + http->used, part);
        http->used += part;
        return (ssize_t)part;
    }
    ssize_t got = recv(http->fd, buffer, size, 0);
    if (got < 0)
        snprintf(http->error, sizeof http->error, "the transfer stopped: %s",
                 errno == EAGAIN ? "no byte for 20 seconds" : strerror(errno));
    return got;
}

void http_close(struct http *http)
{
    if (http->fd >= 0)
        close(http->fd);
    http->fd = -1;
}
