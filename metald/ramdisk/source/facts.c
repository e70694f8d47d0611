/* facts: what the machine is made of, as lines of JSON: one for the machine, one for each network card. */
#include "ramdisk.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static void print_field(const char *name, const char *text)
{
    printf(", \"%s\": ", name);
    print_json_text(text);
}

/* The value of the first line `NAME : VALUE` in a file of /proc. */
static void proc_value(const char *file, const char *name, char *value, size_t size)
{
    char line[512];
    FILE *from = fopen(path_below("METALD_PROC", "/proc", "%s", file), "re");
    *value = 0;
    while (from && fgets(line, sizeof line, from)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, name, strlen(name)) != 0)
            continue;
        colon++;
        colon += strspn(colon, " \t");
        colon[strcspn(colon, "\n")] = 0;
        snprintf(value, size, "%s", colon);
        break;
    }
    if (from)
        fclose(from);
}

static void machine(void)
{
    static const char *const dmi[] = {"sys_vendor", "product_name", "product_serial", "bios_version"};
    struct utsname system;
    char value[256];
    if (uname(&system))
        system.machine[0] = 0;
    printf("{\"cpus\": %ld", sysconf(_SC_NPROCESSORS_ONLN));
    print_field("architecture", system.machine);
    proc_value("cpuinfo", "model name", value, sizeof value);
    print_field("model", value);
    proc_value("meminfo", "MemTotal", value, sizeof value);
    printf(", \"memory_kb\": %lld", atoll(value));
    for (size_t i = 0; i < sizeof dmi / sizeof *dmi; i++)
        if (read_text(path_below("METALD_SYS", "/sys", "class/dmi/id/%s", dmi[i]), value, sizeof value))
            print_field(dmi[i], value);
    printf("}\n");
}

int command_facts(int argc, char **argv)
{
    char address[64], carrier[16];
    (void)argc, (void)argv;
    machine();
    DIR *folder = opendir(path_below("METALD_SYS", "/sys", "class/net"));
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        if (entry->d_name[0] == '.' || access(path_below("METALD_SYS", "/sys", "class/net/%s/device", entry->d_name), F_OK) ||
            !read_text(path_below("METALD_SYS", "/sys", "class/net/%s/address", entry->d_name), address, sizeof address))
            continue;
        if (!read_text(path_below("METALD_SYS", "/sys", "class/net/%s/carrier", entry->d_name), carrier, sizeof carrier))
            carrier[0] = 0;
        printf("{\"has_carrier\": %s", strcmp(carrier, "1") ? "false" : "true");
        print_field("name", entry->d_name);
        print_field("mac_address", address);
        printf("}\n");
    }
    if (folder)
        closedir(folder);
    return 0;
}
