/* `erasures` and `erase`: what a disk can erase by itself, and having it do so, or overwriting it.
 *
 * NVMe: Format NVM with a secure erase setting (NVM Express base specification 2.0, 5.14). The namespace keeps its format.
 * ATA: the Security feature set (ACS-4, 4.17) through SAT's ATA PASS-THROUGH (16) (SAT-5, 12.2.2.3). A password of zeros is
 * set for the erasure; the disk takes it away when it is done. One that was cut off with that password set is unlocked by it.
 */
#include "ramdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/fs.h>
#include <linux/nvme_ioctl.h>
#include <math.h>
#include <scsi/sg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LONGEST 0x7fffffffu /* milliseconds; a disk of many terabytes takes a day */
#define SHORT 60000u

struct erasure {
    struct job job;
    const char *disk, *method;
    long long offset; /* where overwriting begins */
};

struct nvme {
    bool format, crypto; /* Format NVM, and cryptographic erase by it */
    unsigned nsid;
};

struct ata {
    bool supported, enabled, locked, frozen, exhausted, enhanced;
    unsigned minutes, enhanced_minutes; /* that an erasure takes, as the disk says; 0 when it does not */
};

static unsigned le16(const unsigned char *at)
{
    return at[0] | (unsigned)at[1] << 8;
}

static int nvme_identify(int fd, unsigned nsid, unsigned what, unsigned char data[4096])
{
    struct nvme_admin_cmd command = {.opcode = 0x06, .nsid = nsid, .addr = (uintptr_t)data, .data_len = 4096, .cdw10 = what, .timeout_ms = SHORT};
    return ioctl(fd, NVME_IOCTL_ADMIN_CMD, &command);
}

static bool read_nvme(int fd, struct nvme *nvme)
{
    unsigned char data[4096];
    int nsid = ioctl(fd, NVME_IOCTL_ID);
    if (nsid <= 0 || nvme_identify(fd, 0, 1, data))
        return false;
    nvme->nsid = (unsigned)nsid;
    nvme->format = le16(data + 256) & 2; /* OACS */
    nvme->crypto = data[524] & 4;        /* FNA */
    return true;
}

static int nvme_format(int fd, const struct nvme *nvme, unsigned setting)
{
    unsigned char data[4096];
    if (nvme_identify(fd, nvme->nsid, 0, data))
        return -1;
    unsigned flbas = data[26], dps = data[29];
    /* LBAF, MSET, PI, PIL as they are, SES, and the upper bits of LBAF */
    unsigned word = (flbas & 0xf) | (flbas & 0x10) | (dps & 7) << 5 | (dps & 8) << 5 | setting << 9 | ((flbas >> 5) & 3) << 12;
    struct nvme_admin_cmd command = {.opcode = 0x80, .nsid = nvme->nsid, .cdw10 = word, .timeout_ms = LONGEST};
    return ioctl(fd, NVME_IOCTL_ADMIN_CMD, &command);
}

/* One ATA command, with a sector in, a sector out or none. `device` tells of its failures, the kernel of its own. */
static int ata_command(int fd, unsigned char command, void *sector, bool out, unsigned timeout)
{
    unsigned char sense[32] = {0}, cdb[16] = {0x85};
    struct sg_io_hdr request = {.interface_id = 'S', .cmd_len = sizeof cdb, .cmdp = cdb, .mx_sb_len = sizeof sense, .sbp = sense, .timeout = timeout};
    cdb[1] = (unsigned char)((sector ? out ? 5 : 4 : 3) << 1); /* protocol: PIO out, PIO in, no data */
    cdb[2] = sector ? out ? 0x06 : 0x0e : 0x20;                 /* length in the sector count, in blocks; or ask for the status */
    cdb[6] = sector ? 1 : 0;
    cdb[14] = command;
    request.dxfer_direction = sector ? out ? SG_DXFER_TO_DEV : SG_DXFER_FROM_DEV : SG_DXFER_NONE;
    request.dxferp = sector;
    request.dxfer_len = sector ? 512 : 0;
    if (ioctl(fd, SG_IO, &request))
        return -1;
    const unsigned char *status = sense[0] == 0x72 && sense[8] == 0x09 ? sense + 8 : NULL; /* the ATA status return descriptor */
    bool failed = request.host_status || (request.driver_status & ~0x08) || (status ? status[13] & 0x21 : request.status);
    errno = EIO;
    return failed ? -1 : 0;
}

static bool read_ata(int fd, struct ata *ata)
{
    unsigned char words[512] = {0};
    if (ata_command(fd, 0xec, words, false, SHORT))
        return false;
    unsigned state = le16(words + 256); /* word 128 */
    ata->supported = state & 1, ata->enabled = state & 2, ata->locked = state & 4, ata->frozen = state & 8;
    ata->exhausted = state & 16, ata->enhanced = state & 32;
    unsigned normal = le16(words + 178), enhanced = le16(words + 180); /* words 89 and 90, in units of two minutes */
    ata->minutes = 2 * (normal & 0x8000 ? normal & 0x7fff : normal & 0xff);
    ata->enhanced_minutes = 2 * (enhanced & 0x8000 ? enhanced & 0x7fff : enhanced & 0xff);
    return true;
}

static int open_disk(const char *name, int flags)
{
    char path[512];
    if (device_path(path, sizeof path, name)) {
        errno = ENOENT;
        return -1;
    }
    return open(path, O_RDWR | O_CLOEXEC | flags);
}

static const char *word(bool yes)
{
    return yes ? "true" : "false";
}

/* erasures DISK: one JSON object, empty when the disk erases nothing by itself. */
int command_erasures(int argc, char **argv)
{
    struct nvme nvme = {0};
    struct ata ata = {0};
    int fd = argc == 2 ? open_disk(argv[1], 0) : -1;
    if (fd < 0) {
        fprintf(stderr, "cannot open %s: %s\n", argc == 2 ? argv[1] : "no disk", strerror(errno));
        return 1;
    }
    if (read_nvme(fd, &nvme))
        printf("{\"kind\":\"nvme\",\"format\":%s,\"crypto\":%s}\n", word(nvme.format), word(nvme.crypto));
    else if (read_ata(fd, &ata) && ata.supported)
        printf("{\"kind\":\"ata\",\"enhanced\":%s,\"enabled\":%s,\"locked\":%s,\"frozen\":%s,\"minutes\":%u,\"enhanced_minutes\":%u}\n", word(ata.enhanced),
               word(ata.enabled), word(ata.locked), word(ata.frozen), ata.minutes, ata.enhanced_minutes);
    else
        printf("{}\n");
    return 0;
}

static int erase_nvme(struct erasure *erasure, int fd, unsigned setting)
{
    struct nvme nvme = {0};
    if (!read_nvme(fd, &nvme) || !nvme.format)
        return job_fail(&erasure->job, "unable", "%s cannot be formatted", erasure->disk);
    int result = nvme_format(fd, &nvme, setting);
    if (result)
        return result < 0 ? job_fail(&erasure->job, "refused", "formatting %s failed: %s", erasure->disk, strerror(errno))
                          : job_fail(&erasure->job, "refused", "%s refused to be formatted: status %#x", erasure->disk, (unsigned)result);
    return 0;
}

/* Unlock, or set a password of zeros, as the disk's state calls for; it must be enabled and unlocked to be erased. */
static int enable_ata(struct erasure *erasure, int fd)
{
    struct ata ata = {0};
    unsigned char sector[512] = {0};
    if (!read_ata(fd, &ata) || !ata.supported)
        return job_fail(&erasure->job, "unable", "%s has no security feature", erasure->disk);
    if (ata.frozen)
        return job_fail(&erasure->job, "frozen", "%s is frozen by the firmware", erasure->disk);
    if (ata.locked && (ata.exhausted || ata_command(fd, 0xf2, sector, true, SHORT)))
        return job_fail(&erasure->job, "locked", "%s is locked with a password that is not ours", erasure->disk);
    if (!ata.enabled && ata_command(fd, 0xf1, sector, true, SHORT))
        return job_fail(&erasure->job, "refused", "%s took no password: %s", erasure->disk, strerror(errno));
    return 0;
}

static int erase_ata(struct erasure *erasure, int fd, bool enhanced)
{
    unsigned char sector[512] = {(unsigned char)(enhanced ? 2 : 0)};
    struct ata ata = {0};
    if (enable_ata(erasure, fd))
        return -1;
    if (ata_command(fd, 0xf3, NULL, false, SHORT) || ata_command(fd, 0xf4, sector, true, LONGEST)) {
        int reason = errno;
        memset(sector, 0, sizeof sector);
        ata_command(fd, 0xf6, sector, true, SHORT); /* the password goes away again, so that the disk can be used */
        return job_fail(&erasure->job, "refused", "%s did not erase itself: %s", erasure->disk, strerror(reason));
    }
    if (!read_ata(fd, &ata) || ata.enabled)
        return job_fail(&erasure->job, "refused", "%s says that it is erased, and still has its password", erasure->disk);
    return 0;
}

/* Zeros from the offset to the disk's end, past the kernel's cache where the disk can. */
static int overwrite(struct erasure *erasure, int buffered)
{
    static char zeros[1 << 20] __attribute__((aligned(4096)));
    struct job *job = &erasure->job;
    int direct = open_disk(erasure->disk, O_DIRECT);
    job->total = lseek(buffered, 0, SEEK_END);
    for (job->done = erasure->offset; job->done < job->total;) {
        long long left = job->total - job->done;
        size_t size = left < (long long)sizeof zeros ? (size_t)left : sizeof zeros;
        ssize_t put = pwrite(direct < 0 || size % 4096 || job->done % 4096 ? buffered : direct, zeros, size, job->done);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return job_fail(job, "disk", "writing to %s at byte %lld failed: %s", erasure->disk, job->done, strerror(errno));
        job->done += put;
        if (seconds_now() - job->published > 0.5)
            job_publish(job, "running");
    }
    return fsync(buffered) ? job_fail(job, "disk", "flushing %s failed: %s", erasure->disk, strerror(errno)) : 0;
}

static int work(struct job *job)
{
    struct erasure *erasure = (struct erasure *)job;
    int fd = open_disk(erasure->disk, 0);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB))
        return job_fail(job, "disk", "cannot use %s: %s", erasure->disk, strerror(errno));
    ioctl(fd, BLKFLSBUF, 0);
    bool strong = strchr(erasure->method, '-') != NULL;
    int wrong = strcmp(erasure->method, "zero") == 0     ? overwrite(erasure, fd)
                : strncmp(erasure->method, "nvme", 4) == 0 ? erase_nvme(erasure, fd, strong ? 2 : 1)
                                                           : erase_ata(erasure, fd, strong);
    if (wrong)
        return -1;
    ioctl(fd, BLKFLSBUF, 0);
    reread_partitions(fd);
    return 0;
}

/* erase --job J --disk D --method nvme|nvme-crypto|ata|ata-enhanced|zero [--offset N] [--follow S]: erase a disk, once (`job.c`),
 * and tell how far it is until it ends, or for so many seconds. */
int command_erase(int argc, char **argv)
{
    static const char *const methods[] = {"nvme", "nvme-crypto", "ata", "ata-enhanced", "zero"};
    static const struct option options[] = {
        {"job", required_argument, NULL, 'j'}, {"disk", required_argument, NULL, 'd'}, {"method", required_argument, NULL, 'm'}, {"offset", required_argument, NULL, 'o'}, {"follow", required_argument, NULL, 'f'}, {0}};
    struct erasure erasure = {.job = {.phase = "erase", .followed = HUGE_VAL, .once = true}};
    bool known = false;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'j': erasure.job.name = optarg; break;
        case 'd': erasure.disk = optarg; break;
        case 'm': erasure.method = optarg; break;
        case 'o': erasure.offset = atoll(optarg); break;
        case 'f': erasure.job.followed = atof(optarg); break;
        default: return 2;
        }
    }
    for (size_t i = 0; erasure.method && i < sizeof methods / sizeof *methods; i++)
        known = known || strcmp(erasure.method, methods[i]) == 0;
    if (!known || !erasure.job.name || !erasure.disk || strchr(erasure.job.name, '/') || erasure.offset < 0) {
        fprintf(stderr, "usage: erase --job J --disk D --method nvme|nvme-crypto|ata|ata-enhanced|zero [--offset N] [--follow S]\n");
        return 2;
    }
    return job_run(&erasure.job, work);
}
