/* An ioctl(2) to preload: plain files that erase themselves as NVMe and ATA disks do.
 *
 * What a disk is stands in words in the file DISK.nvme or DISK.ata beside it, where its state is kept too:
 *   nvme: format, crypto; lies (says that it is erased and is not), refuses
 *   ata:  supported, enhanced, frozen, exhausted, enabled, locked, foreign (its password is not of zeros); lies, refuses
 * Commands are written to DISK.log, one a line.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nvme_ioctl.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static char words[512], disk[1024], side[1100];

static int has(const char *word)
{
    char padded[600], wanted[64];
    snprintf(padded, sizeof padded, " %s ", words);
    snprintf(wanted, sizeof wanted, " %s ", word);
    return strstr(padded, wanted) != NULL;
}

static void set(const char *word, int on)
{
    char copy[512], left[512] = "";
    snprintf(copy, sizeof copy, "%s", words);
    for (char *one = strtok(copy, " \n"); one; one = strtok(NULL, " \n"))
        if (strcmp(one, word) != 0)
            sprintf(left + strlen(left), "%s ", one);
    snprintf(words, sizeof words, "%s%s", left, on ? word : "");
    FILE *file = fopen(side, "w");
    fprintf(file, "%s", words);
    fclose(file);
}

static int known(int fd, const char *kind)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, disk, sizeof disk - 1);
    if (size <= 0)
        return 0;
    disk[size] = 0;
    snprintf(side, sizeof side, "%s.%s", disk, kind);
    FILE *file = fopen(side, "r");
    if (!file)
        return 0;
    words[fread(words, 1, sizeof words - 1, file)] = 0;
    words[strcspn(words, "\n")] = 0;
    fclose(file);
    return 1;
}

static void told(const char *format, ...)
{
    char path[1100];
    va_list arguments;
    snprintf(path, sizeof path, "%s.log", disk);
    FILE *file = fopen(path, "a");
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    fputc('\n', file);
    fclose(file);
}

static void erase(void)
{
    struct stat status;
    int fd = open(disk, O_WRONLY);
    if (!has("lies") && fstat(fd, &status) == 0 && ftruncate(fd, 0) == 0)
        (void)!ftruncate(fd, status.st_size);
    close(fd);
}

static int nvme(struct nvme_admin_cmd *command)
{
    unsigned char *data = (unsigned char *)(uintptr_t)command->addr;
    if (command->opcode == 0x80) {
        told("format nsid=%u word=%#x", command->nsid, command->cdw10);
        if (has("refuses"))
            return 0x10a;
        erase();
        return 0;
    }
    memset(data, 0, 4096);
    if (command->cdw10 == 1) {
        data[256] = has("format") ? 2 : 0;
        data[524] = has("crypto") ? 4 : 0;
    } else {
        data[26] = 0x51, data[29] = 9; /* format 1 of the upper sixteen 2, metadata at the end, protection type 1 at the start */
    }
    return 0;
}

static int ata(struct sg_io_hdr *request)
{
    unsigned char command = request->cmdp[14], *sector = request->dxferp;
    int wrong = 0;
    if (command == 0xec) {
        memset(sector, 0, 512);
        sector[256] = (unsigned char)(has("supported") | has("enabled") << 1 | has("locked") << 2 | has("frozen") << 3 | has("exhausted") << 4 |
                                      has("enhanced") << 5);
        sector[178] = 3, sector[180] = 0x10, sector[181] = 0x80;
        return 0;
    }
    int right = sector && !has("foreign");
    for (int i = 2; sector && i < 34; i++)
        right = right && sector[i] == 0;
    told("%#x %#x", command, sector ? sector[0] : 0);
    if (has("frozen"))
        wrong = 1;
    else if (command == 0xf1)
        set("enabled", 1);
    else if (command == 0xf2)
        right ? set("locked", 0) : (void)(wrong = 1);
    else if (command == 0xf6)
        right ? set("enabled", 0) : (void)(wrong = 1);
    else if (command == 0xf4 && (has("refuses") || has("locked") || !right))
        wrong = 1;
    else if (command == 0xf4)
        erase(), set("enabled", 0);
    if (wrong) {
        request->sbp[0] = 0x72, request->sbp[7] = 14, request->sbp[8] = 0x09, request->sbp[9] = 12;
        request->sbp[21] = 0x51; /* the status: ready, seek complete, error */
        request->status = 2, request->driver_status = 8;
    }
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (request == NVME_IOCTL_ID && known(fd, "nvme"))
        return 1;
    if (request == NVME_IOCTL_ADMIN_CMD && known(fd, "nvme"))
        return nvme(argument);
    if (request == SG_IO && known(fd, "ata"))
        return ata(argument);
    int (*real)(int, unsigned long, void *) = (int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl");
    return real(fd, request, argument);
}
