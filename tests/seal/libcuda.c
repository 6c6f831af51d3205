/* A stand-in for the driver's library: cuInit does in order what the real one is known to do, and answers as it would.
   FAKE_DEV is the folder of the nodes, FAKE_PCI the folder of PCI devices; with FAKE_NAMES threads are named, as by
   drivers from 570 on. A node that stands in for a GPU's answers every request ENOTTY: it was reached. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SUCCESS = 0, NO_DEVICE = 100, OPERATING_SYSTEM = 304 };

static int open_node(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("FAKE_DEV"), name);
    return open(path, O_RDWR | O_CLOEXEC);
}

static int is_reached(int node, unsigned long request) {
    char message[512] = {0};
    return ioctl(node, request, message) == 0 || errno == ENOTTY;
}

static int is_readable(const char *path) {
    char byte;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    int got = file >= 0 && read(file, &byte, 1) == 1;
    close(file);
    return got;
}

static int holds_something(const char *path) {
    int found = 0;
    DIR *folder = opendir(path);
    if (!folder) return 0;
    for (struct dirent *entry; (entry = readdir(folder));) found += entry->d_name[0] != '.';
    closedir(folder);
    return found;
}

static int is_named(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%ld/comm", getpid(), syscall(SYS_gettid));
    int file = open(path, O_WRONLY | O_CLOEXEC);
    int done = file >= 0 && write(file, "cuda-EvtHandlr", 14) == 14;
    close(file);
    return done;
}

int cuInit(unsigned flags) {
    if (!is_readable("/proc/devices") || !is_readable("/proc/self/maps")) return OPERATING_SYSTEM;
    int control = open_node("nvidiactl"), memory = open_node("nvidia-uvm"), card = open_node("nvidia0");
    if (control < 0 || memory < 0 || card < 0) return NO_DEVICE;
    if (!is_reached(control, 0xC04846D2) || !is_reached(card, 0xC020462A) || !is_reached(memory, 0x30000001))
        return OPERATING_SYSTEM;
    if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, card, 0) == MAP_FAILED) return OPERATING_SYSTEM;
    if (getenv("FAKE_NAMES") && !is_named()) return OPERATING_SYSTEM;
    if (!holds_something(getenv("FAKE_PCI"))) return OPERATING_SYSTEM;
    return SUCCESS;
}

int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "stand-in %d", device); return SUCCESS; }
