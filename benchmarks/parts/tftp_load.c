/* The clients of benchmarks/tftp.py: many at once in one process that costs little itself, so that the server is what is measured.
 *
 *   tftp_load PORT WINDOW CLIENTS SECONDS GRACE
 *
 * Each client fetches mib.efi again and again until SECONDS are over, then ends what it has begun, for GRACE seconds at most.
 * A client repeats itself after a second of silence, and is lost after six such in a row. Prints files, datagrams sent
 * again, clients lost, and seconds.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLKSIZE = 1468, TRIES = 6 };

struct client {
    int socket, window, unacked, block, tries, connected, over;
    double at;
    unsigned char last[128];
    int length;
};

static struct client *clients;
static struct sockaddr_in server;
static int asked, epoll, running;
static long files, resent, lost;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void again(struct client *c)
{
    c->at = now();
    if (c->connected)
        send(c->socket, c->last, c->length, 0);
    else
        sendto(c->socket, c->last, c->length, 0, (struct sockaddr *)&server, sizeof server);
}

static void ack(struct client *c)
{
    unsigned char data[4] = {0, 4, c->block >> 8, c->block};
    memcpy(c->last, data, 4);
    c->length = 4;
    c->unacked = 0;
    again(c);
}

static void begin(struct client *c)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (c->socket >= 0)
        close(c->socket);
    c->socket = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (c->socket < 0) {
        perror("socket");
        exit(2);
    }
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->socket, &event);
    c->window = 1;
    c->unacked = c->block = c->tries = c->connected = 0;
    c->length = sprintf((char *)c->last, "%c%cmib.efi%coctet%cblksize%c%d%cwindowsize%c%d%c", 0, 1, 0, 0, 0, BLKSIZE, 0, 0, asked, 0);
    again(c);
}

static void finish(struct client *c)
{
    c->over = 1;
    running--;
    close(c->socket);
}

/* Whether the file is complete. */
static int take(struct client *c)
{
    unsigned char data[2048];
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    for (int turn = 0; turn < c->window + 1; turn++) {
        ssize_t size = recvfrom(c->socket, data, sizeof data, 0, (struct sockaddr *)&from, &length);
        if (size < 4)
            return 0;
        if (!c->connected)
            c->connected = !connect(c->socket, (struct sockaddr *)&from, length);
        if (data[1] == 6) {
            for (char *word = (char *)data + 2; word < (char *)data + size; word += strlen(word) + 1)
                if (!strcasecmp(word, "windowsize"))
                    c->window = atoi(word + strlen(word) + 1);
            ack(c);
        } else if (data[1] == 3) {
            if ((data[2] << 8 | data[3]) != c->block + 1)
                continue;
            c->block++;
            c->tries = 0;
            int last = size < BLKSIZE + 4;
            if (++c->unacked == c->window || last)
                ack(c);
            if (last)
                return 1;
        } else {
            fprintf(stderr, "the server said %d: %.100s\n", data[1], data + 4);
            exit(2);
        }
    }
    return 0;
}

int main(int count, char **given)
{
    if (count != 6)
        return 2;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(given[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    asked = atoi(given[2]);
    int many = running = atoi(given[3]);
    double seconds = atof(given[4]), grace = atof(given[5]), begun = now(), swept = begun;
    clients = calloc(many, sizeof *clients);
    epoll = epoll_create1(0);
    for (int at = 0; at < many; at++) {
        clients[at].socket = -1;
        begin(&clients[at]);
    }
    while (running && now() - begun < seconds + grace) {
        struct epoll_event events[64];
        int heard = epoll_wait(epoll, events, 64, 200);
        for (int at = 0; at < heard; at++) {
            struct client *c = events[at].data.ptr;
            if (c->over || !take(c))
                continue;
            files++;
            if (now() - begun < seconds)
                begin(c);
            else
                finish(c);
        }
        if (now() - swept < 0.2)
            continue;
        swept = now();
        for (int at = 0; at < many; at++) {
            struct client *c = &clients[at];
            if (c->over || swept - c->at < 1.0)
                continue;
            if (++c->tries > TRIES) {
                lost++;
                finish(c);
            } else {
                resent++;
                if (c->block)
                    ack(c);
                else
                    again(c);
            }
        }
    }
    printf("%ld %ld %ld %f\n", files, resent, lost + running, now() - begun);
    return 0;
}
