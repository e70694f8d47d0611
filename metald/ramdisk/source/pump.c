/* Moves bytes from a source to a sink through a ring of buffers, each end in its own thread, so that the network, the
 * disk and the hash work at the same time. Buffers are aligned for O_DIRECT.
 */
#include "ramdisk.h"

#include <pthread.h>
#include <stdlib.h>

struct ring {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char *buffers[SLOTS];
    size_t sizes[SLOTS];
    unsigned filled, emptied;
    bool stop, failed;
    source_fn source;
    void *context;
    long long total;
};

static void *fill(void *argument)
{
    struct ring *ring = argument;
    for (long long offset = 0; offset < ring->total;) {
        pthread_mutex_lock(&ring->lock);
        while (ring->filled - ring->emptied == SLOTS && !ring->stop)
            pthread_cond_wait(&ring->changed, &ring->lock);
        bool stop = ring->stop;
        unsigned slot = ring->filled % SLOTS;
        pthread_mutex_unlock(&ring->lock);
        if (stop)
            break;
        long long left = ring->total - offset;
        ssize_t got = ring->source(ring->context, ring->buffers[slot], left < SLOT_SIZE ? (size_t)left : SLOT_SIZE, offset);
        pthread_mutex_lock(&ring->lock);
        if (got > 0) {
            ring->sizes[slot] = (size_t)got;
            ring->filled++;
            offset += got;
        } else {
            ring->failed = true;
            offset = ring->total;
        }
        pthread_cond_broadcast(&ring->changed);
        pthread_mutex_unlock(&ring->lock);
    }
    return NULL;
}

static int drain(struct ring *ring, sink_fn sink, void *context)
{
    for (long long offset = 0; offset < ring->total;) {
        pthread_mutex_lock(&ring->lock);
        while (ring->filled == ring->emptied && !ring->failed)
            pthread_cond_wait(&ring->changed, &ring->lock);
        bool empty = ring->filled == ring->emptied;
        unsigned slot = ring->emptied % SLOTS;
        pthread_mutex_unlock(&ring->lock);
        if (empty || sink(context, ring->buffers[slot], ring->sizes[slot], offset))
            return -1;
        offset += (long long)ring->sizes[slot];
        pthread_mutex_lock(&ring->lock);
        ring->emptied++;
        pthread_cond_broadcast(&ring->changed);
        pthread_mutex_unlock(&ring->lock);
    }
    return 0;
}

/* Returns 0 when `total` bytes went through, -1 when either end failed; which one and why is in their contexts. */
int pump(source_fn source, void *source_context, sink_fn sink, void *sink_context, long long total)
{
    struct ring ring = {.source = source, .context = source_context, .total = total};
    pthread_t thread;
    int result = -1;
    pthread_mutex_init(&ring.lock, NULL);
    pthread_cond_init(&ring.changed, NULL);
    char *memory = aligned_alloc(4096, (size_t)SLOTS * SLOT_SIZE);
    if (!memory)
        return -1;
    for (unsigned slot = 0; slot < SLOTS; slot++)
        ring.buffers[slot] = memory + (size_t)slot * SLOT_SIZE;
    if (pthread_create(&thread, NULL, fill, &ring) == 0) {
        result = drain(&ring, sink, sink_context);
        pthread_mutex_lock(&ring.lock);
        ring.stop = true;
        pthread_cond_broadcast(&ring.changed);
        pthread_mutex_unlock(&ring.lock);
        pthread_join(thread, NULL);
    }
    free(memory);
    return result;
}
