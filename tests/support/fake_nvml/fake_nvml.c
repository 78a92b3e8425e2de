/* A libnvidia-ml.so.1 for tests: real calls through the real Python binding, simulated GPUs behind them.
 *
 * The state of every GPU lies in a memory-mapped file (path in FAKE_NVML_STATE), so that the test, the agent and its
 * successor after a kill see the same cards. Power follows min(demand, enforced limit) at first order, faster down than
 * up, on CLOCK_MONOTONIC; energy is its integral. Faults are fields of the file. The layout is described once more in
 * tests/support/fake_nvml.py, which makes the file and checks the size of its records against `gpu_size` in the header.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, SMALL = 7,
       DRIVER_NOT_LOADED = 9, GPU_LOST = 15, UNKNOWN = 999 };
enum { HANG_SET = 1, HANG_ALL = 2 };

typedef struct {
    char uuid[96], name[96];
    uint32_t min_mw, max_mw, default_mw, limit_mw;
    uint32_t bmc_mw;            /* a limit set out of band; 0: none */
    uint32_t persistence, mig;  /* mig: 0 off, 1 on, 2 not supported */
    uint32_t lost, no_permission, refuse;
    uint32_t hang;              /* HANG_SET: setting never returns; HANG_ALL: no call does; until the field is cleared */
    uint32_t latency_ms;        /* of a set */
    uint32_t reset_after_ms;    /* the limit goes back to the default so long after each set; 0: stays */
    uint32_t no_energy;         /* a card without an energy counter */
    uint32_t busy_percent;      /* share of time in which a kernel runs */
    uint32_t no_utilisation;    /* a card that doesn't tell it */
    uint32_t set_calls;
    uint32_t generation;        /* a card that came back has another; handles of the last one are dead */
    uint32_t min_mhz, max_mhz;  /* range of the SM clock */
    uint32_t locked_mhz;        /* highest clock that a lock allows; 0: not locked */
    uint32_t no_clocks;         /* a card whose clocks can't be locked */
    uint32_t lock_calls, padding;
    double reset_at_s;
    double clock_share;         /* part of the draw above idle that falls with the square of the clock */
    double idle_w, demand_w, settle_down_s, settle_up_s;
    double draw_w, energy_j, updated_s;
} gpu_t;

typedef struct {
    uint32_t magic, count, gpu_size, no_driver;
    uint32_t in_flight, most_in_flight, inits, clients;
    uint32_t driver, padding;   /* which driver is loaded: another number after each reload */
    gpu_t gpus[];
} hall_t;

static hall_t *hall;
static char hall_path[4096];
static int open_here;            /* this process: opened so often more than shut down */
static uint32_t opened_driver;  /* and the driver that the first of these found; a later one opens nothing anew */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_ms(unsigned ms) {
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000L};
    nanosleep(&t, NULL);
}

static uint32_t enforced_mw(const gpu_t *g) {
    return g->bmc_mw && g->bmc_mw < g->limit_mw ? g->bmc_mw : g->limit_mw;
}

static uint32_t clock_mhz(const gpu_t *g) {
    return g->locked_mhz && g->locked_mhz < g->max_mhz ? g->locked_mhz : g->max_mhz;
}

/* What the work would draw at the present clock. */
static double demand_now(const gpu_t *g) {
    double ratio = (double)clock_mhz(g) / g->max_mhz;
    return g->idle_w + (g->demand_w - g->idle_w) * (1 - g->clock_share * (1 - ratio * ratio));
}

/* Bring one GPU's draw and energy to `to`, during which its limit was constant. */
static void integrate(gpu_t *g, double to) {
    double seconds = to - g->updated_s;
    if (seconds <= 0) return;
    double target = fmin(demand_now(g), fmax(enforced_mw(g) / 1000.0, g->idle_w));
    double gap = g->draw_w - target;
    double tau = (gap > 0 ? g->settle_down_s : g->settle_up_s) / 3.0;
    double left = exp(-seconds / tau);
    g->energy_j += target * seconds + gap * tau * (1 - left);
    g->draw_w = target + gap * left;
    g->updated_s = to;
}

static void advance(gpu_t *g) {
    double now = now_s();
    pthread_mutex_lock(&lock);
    if (g->reset_at_s > 0 && now >= g->reset_at_s) {
        integrate(g, g->reset_at_s);
        g->limit_mw = g->default_mw;
        g->reset_at_s = 0;
    }
    integrate(g, now);
    pthread_mutex_unlock(&lock);
}

/* A handle is the record's address with the card's generation in its low three bits. */
static gpu_t *handle_of(gpu_t *g) { return (gpu_t *)((uintptr_t)g | (g->generation & 7)); }

/* Whether the driver that this process has open is there. */
static int driver(void) {
    if (!hall || !open_here) return UNINITIALIZED;
    return hall->no_driver || opened_driver != hall->driver ? DRIVER_NOT_LOADED : OK;
}

/* What every call on a card goes through first; turns the handle into the record. */
static int enter(gpu_t **handle) {
    if (driver() == UNINITIALIZED) return UNINITIALIZED;
    if (!*handle) return INVALID;
    uintptr_t bits = (uintptr_t)*handle;
    gpu_t *g = *handle = (gpu_t *)(bits & ~(uintptr_t)7);
    if ((bits & 7) != (g->generation & 7)) return GPU_LOST;
    while (*(volatile uint32_t *)&g->hang == HANG_ALL) pause_ms(5);
    if (driver() != OK) return driver();
    if (g->lost) return GPU_LOST;
    advance(g);
    return OK;
}

static int text(char *to, unsigned length, const char *from) {
    if (strlen(from) + 1 > length) return SMALL;
    strcpy(to, from);
    return OK;
}

static int map_state(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    struct stat info;
    if (!path || strlen(path) >= sizeof hall_path) return DRIVER_NOT_LOADED;
    if (hall && strcmp(path, hall_path) == 0) return OK;
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return DRIVER_NOT_LOADED;
    void *map = MAP_FAILED;
    if (fstat(file, &info) == 0 && (size_t)info.st_size >= sizeof(hall_t))
        map = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED) return UNKNOWN;
    if (((hall_t *)map)->magic != 0x4c4d564eu || ((hall_t *)map)->gpu_size != sizeof(gpu_t)) return UNKNOWN;
    hall = map; /* an older map stays: handles may still point into it */
    strcpy(hall_path, path);
    open_here = 0; /* another machine */
    return OK;
}

EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    int result = map_state();
    if (result == OK && hall->no_driver) result = DRIVER_NOT_LOADED;
    if (result == OK && open_here++ == 0) opened_driver = hall->driver;
    pthread_mutex_unlock(&lock);
    if (result != OK) return result;
    __atomic_add_fetch(&hall->inits, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&hall->clients, 1, __ATOMIC_SEQ_CST);
    return OK;
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
/* Without persistence mode the driver forgets what was set when its last client goes. */
EXPORT int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    int was_open = hall && open_here > 0;
    if (was_open) open_here--;
    pthread_mutex_unlock(&lock);
    if (!was_open) return UNINITIALIZED;
    if (__atomic_sub_fetch(&hall->clients, 1, __ATOMIC_SEQ_CST)) return OK;
    for (unsigned k = 0; k < hall->count; k++)
        if (!hall->gpus[k].persistence) {
            hall->gpus[k].limit_mw = hall->gpus[k].default_mw;
            hall->gpus[k].locked_mhz = 0;
        }
    return OK;
}

EXPORT const char *nvmlErrorString(int result) {
    switch (result) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned length) { return text(version, length, "580.00.fake"); }

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
    if (driver() != OK) return driver();
    *count = hall->count;
    return OK;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_t **device) {
    if (driver() != OK) return driver();
    if (index >= hall->count) return INVALID;
    if (hall->gpus[index].lost) return GPU_LOST;
    *device = handle_of(&hall->gpus[index]);
    return OK;
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, gpu_t **device) {
    if (driver() != OK) return driver();
    for (unsigned k = 0; k < hall->count; k++)
        if (strcmp(hall->gpus[k].uuid, uuid) == 0) return nvmlDeviceGetHandleByIndex_v2(k, device);
    return NOT_FOUND;
}

/* A getter of one number: enter, then `body`. */
#define GETTER(name, type, body)                    \
    EXPORT int name(gpu_t *g, type *value) {        \
        int result = enter(&g);                      \
        if (result != OK) return result;            \
        body;                                       \
        return OK;                                  \
    }

GETTER(nvmlDeviceGetIndex, unsigned, *value = (unsigned)(g - hall->gpus))
GETTER(nvmlDeviceGetPowerManagementLimit, unsigned, *value = g->limit_mw)
GETTER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, *value = g->default_mw)
GETTER(nvmlDeviceGetEnforcedPowerLimit, unsigned, *value = enforced_mw(g))
GETTER(nvmlDeviceGetPowerUsage, unsigned, *value = (unsigned)lround(g->draw_w * 1000))
GETTER(nvmlDeviceGetPersistenceMode, unsigned, *value = g->persistence)
GETTER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long,
       if (g->no_energy) return NOT_SUPPORTED; *value = (unsigned long long)(g->energy_j * 1000))
typedef struct { unsigned gpu, memory; } utilization_t;
GETTER(nvmlDeviceGetUtilizationRates, utilization_t,
       if (g->no_utilisation) return NOT_SUPPORTED; value->gpu = value->memory = g->busy_percent)
/* 0x4: slowed by the power limit; 0x1: idle */
GETTER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long,
       *value = g->demand_w <= g->idle_w ? 0x1 : demand_now(g) > enforced_mw(g) / 1000.0 ? 0x4 : 0x0)

/* Type 0 is graphics, 1 the SM clock, which are the same here; 2 is memory. */
EXPORT int nvmlDeviceGetClockInfo(gpu_t *g, int type, unsigned *mhz) {
    int result = enter(&g);
    if (result == OK) *mhz = type == 2 ? 2619 : clock_mhz(g);
    return result;
}

EXPORT int nvmlDeviceGetMaxClockInfo(gpu_t *g, int type, unsigned *mhz) {
    int result = enter(&g);
    if (result == OK) *mhz = type == 2 ? 2619 : g->max_mhz;
    return result;
}

EXPORT int nvmlDeviceGetSupportedGraphicsClocks(gpu_t *g, unsigned memory_mhz, unsigned *count, unsigned *mhz) {
    int result = enter(&g);
    if (result != OK) return result;
    if (g->no_clocks) return NOT_SUPPORTED;
    if (memory_mhz != 2619) return NOT_FOUND;
    unsigned steps = (g->max_mhz - g->min_mhz) / 15 + 1, room = *count;
    *count = steps;
    if (room < steps) return SMALL;
    for (unsigned k = 0; k < steps; k++) mhz[k] = g->max_mhz - 15 * k;
    return OK;
}

static int lock_clocks(gpu_t *g, unsigned mhz) {
    int result = enter(&g);
    if (result != OK) return result;
    while (*(volatile uint32_t *)&g->hang == HANG_SET) pause_ms(5);
    if (g->no_permission) return NO_PERMISSION;
    if (g->no_clocks || g->refuse) return NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    g->locked_mhz = mhz;
    g->lock_calls++;
    pthread_mutex_unlock(&lock);
    return OK;
}

EXPORT int nvmlDeviceSetGpuLockedClocks(gpu_t *g, unsigned low_mhz, unsigned high_mhz) {
    return low_mhz > high_mhz || !high_mhz ? INVALID : lock_clocks(g, high_mhz);
}

EXPORT int nvmlDeviceResetGpuLockedClocks(gpu_t *g) { return lock_clocks(g, 0); }

EXPORT int nvmlDeviceGetUUID(gpu_t *g, char *uuid, unsigned length) {
    int result = enter(&g);
    return result != OK ? result : text(uuid, length, g->uuid);
}

EXPORT int nvmlDeviceGetName(gpu_t *g, char *name, unsigned length) {
    int result = enter(&g);
    return result != OK ? result : text(name, length, g->name);
}

EXPORT int nvmlDeviceGetPowerManagementLimitConstraints(gpu_t *g, unsigned *low, unsigned *high) {
    int result = enter(&g);
    if (result != OK) return result;
    *low = g->min_mw;
    *high = g->max_mw;
    return OK;
}

EXPORT int nvmlDeviceGetMigMode(gpu_t *g, unsigned *current, unsigned *pending) {
    int result = enter(&g);
    if (result != OK) return result;
    if (g->mig == 2) return NOT_SUPPORTED;
    *current = *pending = g->mig;
    return OK;
}

EXPORT int nvmlDeviceSetPersistenceMode(gpu_t *g, unsigned mode) {
    int result = enter(&g);
    if (result != OK) return result;
    if (g->no_permission) return NO_PERMISSION;
    g->persistence = mode;
    return OK;
}

static int set_limit(gpu_t *g, unsigned limit_mw) {
    int result = enter(&g);
    if (result != OK) return result;
    if (g->latency_ms) pause_ms(g->latency_ms);
    while (*(volatile uint32_t *)&g->hang == HANG_SET) pause_ms(5);
    if (g->no_permission) return NO_PERMISSION;
    if (g->refuse) return NOT_SUPPORTED;
    if (limit_mw < g->min_mw || limit_mw > g->max_mw) return INVALID;
    advance(g);
    pthread_mutex_lock(&lock);
    g->limit_mw = limit_mw;
    g->set_calls++;
    g->reset_at_s = g->reset_after_ms ? now_s() + g->reset_after_ms / 1000.0 : 0;
    pthread_mutex_unlock(&lock);
    return OK;
}

/* Counts how many sets overlap: the proof that cards are served in parallel, on any machine at any load. */
EXPORT int nvmlDeviceSetPowerManagementLimit(gpu_t *g, unsigned limit_mw) {
    if (!hall) return UNINITIALIZED;
    uint32_t now = __atomic_add_fetch(&hall->in_flight, 1, __ATOMIC_SEQ_CST);
    uint32_t most = __atomic_load_n(&hall->most_in_flight, __ATOMIC_SEQ_CST);
    while (now > most && !__atomic_compare_exchange_n(&hall->most_in_flight, &most, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    int result = set_limit(g, limit_mw);
    __atomic_sub_fetch(&hall->in_flight, 1, __ATOMIC_SEQ_CST);
    return result;
}
