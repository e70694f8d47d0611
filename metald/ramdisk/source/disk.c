/* Facts about disks, and small exact reads and writes: `disks`, `read`, `patch`, `zero`, `flush`. */
#include "ramdisk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const FACTS[] = {
    "size", "ro", "removable", "queue/logical_block_size", "queue/rotational", "serial", "wwid",
    "device/serial", "device/model", "device/vendor", "device/wwid",
};
static const char *const NOT_DISKS[] = {"loop", "ram", "zram", "sr", "fd", "nbd", "dm-", "md"};

static bool is_disk(const char *name)
{
    if (*name == '.')
        return false;
    for (size_t i = 0; i < sizeof NOT_DISKS / sizeof *NOT_DISKS; i++)
        if (strncmp(name, NOT_DISKS[i], strlen(NOT_DISKS[i])) == 0)
            return false;
    return true;
}

static void print_page(const char *name, const char *page)
{
    unsigned char data[256];
    int fd = open(path_below("METALD_SYS", "/sys", "block/%.64s/device/%s", name, page), O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, data, sizeof data);
    if (fd >= 0)
        close(fd);
    printf(",\"%s\":\"", page);
    for (ssize_t i = 0; i < size; i++)
        printf("%02x", data[i]);
    printf("\"");
}

/* The number of the port of its ATA controller that a disk hangs on; empty for other disks. */
static const char *ata_port(const char *path, char *text, size_t size)
{
    int number;
    const char *at = strstr(path, "/ata");
    *text = 0;
    if (at && sscanf(at, "/ata%d/", &number) == 1)
        read_text(path_below("METALD_SYS", "/sys", "class/ata_port/ata%d/port_no", number), text, size);
    return text;
}

/* One JSON line per disk, facts as the kernel spells them; what they mean is metald's business. */
int command_disks(int argc, char **argv)
{
    (void)argc, (void)argv;
    struct dirent **entries;
    int count = scandir(path_below("METALD_SYS", "/sys", "block"), &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        if (!is_disk(name))
            continue;
        char text[1024], real[4096];
        printf("{\"name\":");
        print_json_text(name);
        for (size_t f = 0; f < sizeof FACTS / sizeof *FACTS; f++) {
            *text = 0;
            read_text(path_below("METALD_SYS", "/sys", "block/%.64s/%s", name, FACTS[f]), text, sizeof text);
            printf(",\"%s\":", FACTS[f]);
            print_json_text(text);
        }
        const char *place = realpath(path_below("METALD_SYS", "/sys", "block/%.64s", name), real) ? real : "";
        printf(",\"path\":");
        print_json_text(place);
        printf(",\"ata_port\":");
        print_json_text(ata_port(place, text, sizeof text));
        print_page(name, "vpd_pg80");
        print_page(name, "vpd_pg83");
        printf("}\n");
    }
    return 0;
}

static int open_device(const char *name, int flags)
{
    char path[512];
    if (device_path(path, sizeof path, name)) {
        fprintf(stderr, "there is no disk %s\n", name);
        return -1;
    }
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        fprintf(stderr, "cannot open %s: %s\n", name, strerror(errno));
    return fd;
}

static bool parse_range(const char *text, long long *offset, long long *length)
{
    return sscanf(text, "%lld:%lld", offset, length) == 2 && *offset >= 0 && *length >= 0;
}

/* read DISK OFFSET:LENGTH... writes the ranges one after the other; what lies behind the disk's end is left out. */
int command_read(int argc, char **argv)
{
    static char buffer[65536];
    int fd = argc > 2 ? open_device(argv[1], O_RDONLY) : -1;
    if (fd < 0)
        return 1;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    for (int i = 2; i < argc; i++) {
        long long offset, length;
        if (!parse_range(argv[i], &offset, &length))
            return 2;
        while (length > 0) {
            ssize_t got = pread(fd, buffer, length < (long long)sizeof buffer ? (size_t)length : sizeof buffer, offset);
            if (got < 0) {
                fprintf(stderr, "reading %s at byte %lld failed: %s\n", argv[1], offset, strerror(errno));
                return 1;
            }
            if (got == 0)
                break;
            if (write_all(1, buffer, (size_t)got))
                return 1;
            offset += got, length -= got;
        }
    }
    return 0;
}

int reread_partitions(int fd)
{
    struct stat status;
    if (fstat(fd, &status) || !S_ISBLK(status.st_mode))
        return 0;
    return ioctl(fd, BLKRRPART);
}

static int put(int fd, const char *name, const char *data, size_t size, long long offset)
{
    while (size) {
        ssize_t done = pwrite(fd, data, size, offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            fprintf(stderr, "writing to %s at byte %lld failed: %s\n", name, offset, strerror(errno));
            return -1;
        }
        data += done, offset += done, size -= (size_t)done;
    }
    return 0;
}

static int finish(int fd, const char *name)
{
    if (fsync(fd)) {
        fprintf(stderr, "flushing %s failed: %s\n", name, strerror(errno));
        return 1;
    }
    reread_partitions(fd);
    return 0;
}

/* patch DISK OFFSET:LENGTH... writes the ranges with the bytes of its input, one after the other, and flushes. Nothing
 * is written before all bytes are here, so that a lost connection leaves the disk as it was. */
int command_patch(int argc, char **argv)
{
    long long total = 0, offset, length;
    for (int i = 2; i < argc; i++) {
        if (!parse_range(argv[i], &offset, &length))
            return 2;
        total += length;
    }
    if (argc < 3 || total > (64 << 20))
        return 2;
    char *data = malloc((size_t)total + 1);
    size_t have = 0;
    for (ssize_t got; data && have < (size_t)total && (got = read(0, data + have, (size_t)total - have)) > 0;)
        have += (size_t)got;
    if (!data || have != (size_t)total) {
        fprintf(stderr, "got %zu of %lld bytes\n", have, total);
        return 1;
    }
    int fd = open_device(argv[1], O_RDWR);
    if (fd < 0)
        return 1;
    const char *at = data;
    for (int i = 2; i < argc; i++) {
        parse_range(argv[i], &offset, &length);
        if (put(fd, argv[1], at, (size_t)length, offset))
            return 1;
        at += length;
    }
    return finish(fd, argv[1]);
}

/* zero DISK OFFSET:LENGTH... overwrites the ranges with zeros and flushes. */
int command_zero(int argc, char **argv)
{
    static const char zeros[65536];
    int fd = argc > 2 ? open_device(argv[1], O_RDWR) : -1;
    if (fd < 0)
        return 1;
    for (int i = 2; i < argc; i++) {
        long long offset, length;
        if (!parse_range(argv[i], &offset, &length))
            return 2;
        for (; length > 0; offset += (long long)sizeof zeros, length -= (long long)sizeof zeros)
            if (put(fd, argv[1], zeros, length < (long long)sizeof zeros ? (size_t)length : sizeof zeros, offset))
                return 1;
    }
    return finish(fd, argv[1]);
}

/* flush DISK... makes sure that everything written is on the medium. */
int command_flush(int argc, char **argv)
{
    int result = 0;
    sync();
    for (int i = 1; i < argc; i++) {
        int fd = open_device(argv[i], O_RDWR);
        if (fd < 0 || fsync(fd))
            result = 1;
        if (fd >= 0)
            close(fd);
    }
    return result;
}
