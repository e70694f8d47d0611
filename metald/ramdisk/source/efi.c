/* What the firmware will boot: `loaders` lists the EFI programs on a partition, `efivar` reads and writes a variable. */
#include "ramdisk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEEPEST 6

static void list(const char *root, const char *below, int depth)
{
    char path[1024];
    snprintf(path, sizeof path, "%s%s", root, below);
    DIR *directory = depth < DEEPEST ? opendir(path) : NULL;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char next[1024];
        const char *dot = strrchr(entry->d_name, '.');
        if (entry->d_name[0] == '.' || (size_t)snprintf(next, sizeof next, "%s/%s", below, entry->d_name) >= sizeof next)
            continue;
        if (entry->d_type == DT_DIR) {
            list(root, next, depth + 1);
        } else if (dot && (strcasecmp(dot, ".efi") == 0 || strcasecmp(dot, ".csv") == 0)) {
            print_json_text(next);
            putchar('\n');
        }
    }
    if (directory)
        closedir(directory);
}

/* The partition's name, found by its number below the disk in sysfs. */
static bool partition_name(const char *disk, const char *number, char *name, size_t size)
{
    bool found = false;
    DIR *directory = opendir(path_below("METALD_SYS", "/sys", "block/%.64s", disk));
    for (struct dirent *entry; directory && !found && (entry = readdir(directory));) {
        char text[32] = "";
        if (entry->d_name[0] == '.')
            continue;
        read_text(path_below("METALD_SYS", "/sys", "block/%.64s/%.64s/partition", disk, entry->d_name), text, sizeof text);
        if (strcmp(text, number) == 0)
            found = (size_t)snprintf(name, size, "%s", entry->d_name) < size;
    }
    if (directory)
        closedir(directory);
    return found;
}

/* loaders DISK PARTITION: one JSON string per EFI program or boot CSV on the FAT partition. */
int command_loaders(int argc, char **argv)
{
    char name[128], device[512];
    if (argc != 3)
        return 2;
    if (!partition_name(argv[1], argv[2], name, sizeof name) || device_path(device, sizeof device, name)) {
        fprintf(stderr, "%s has no partition %s\n", argv[1], argv[2]);
        return 1;
    }
    const char *mounted = strdup(path_below("METALD_RUN", "/run/metald", "esp"));
    mkdir(mounted, 0700);
    if (mount(device, mounted, "vfat", MS_RDONLY | MS_NODEV | MS_NOEXEC | MS_NOSUID, NULL)) {
        fprintf(stderr, "cannot mount %s as FAT: %s\n", name, strerror(errno));
        return 1;
    }
    list(mounted, "", 0);
    umount2(mounted, MNT_DETACH);
    return 0;
}

static int put_variable(const char *path)
{
    static char data[65536];
    size_t have = 0;
    for (ssize_t got; have < sizeof data && (got = read(0, data + have, sizeof data - have)) > 0;)
        have += (size_t)got;
    int fd = open(path, O_RDONLY | O_CLOEXEC), flags = 0;
    if (fd >= 0) { /* the kernel guards variables that it does not know against removal */
        if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && flags & FS_IMMUTABLE_FL) {
            flags &= ~FS_IMMUTABLE_FL;
            ioctl(fd, FS_IOC_SETFLAGS, &flags);
        }
        close(fd);
    }
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    /* one write is one change of the variable */
    if (fd < 0 || write(fd, data, have) != (ssize_t)have) {
        fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
        return 1;
    }
    close(fd);
    return 0;
}

static ssize_t get_variable(const char *name, unsigned char *data, size_t size)
{
    int fd = open(path_below("METALD_SYS", "/sys", "firmware/efi/efivars/%.200s", name), O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, data, size);
    if (fd >= 0)
        close(fd);
    return got;
}

static int list_variables(void)
{
    static unsigned char data[65536];
    struct dirent **entries;
    int count = scandir(path_below("METALD_SYS", "/sys", "firmware/efi/efivars"), &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (strncmp(entries[i]->d_name, "Boot", 4) != 0)
            continue;
        ssize_t size = get_variable(entries[i]->d_name, data, sizeof data);
        printf("%s ", entries[i]->d_name);
        for (ssize_t at = 0; at < size; at++)
            printf("%02x", data[at]);
        printf("\n");
    }
    return 0;
}

/* efivar list | put NAME: names as efivarfs spells them, contents with the four attribute bytes first. `list` prints the
 * boot variables in hex and nothing on a machine that has none; `put` takes its content from the input. */
int command_efivar(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0)
        return list_variables();
    if (argc != 3 || strcmp(argv[1], "put") != 0 || strchr(argv[2], '/'))
        return 2;
    return put_variable(strdup(path_below("METALD_SYS", "/sys", "firmware/efi/efivars/%.200s", argv[2])));
}
