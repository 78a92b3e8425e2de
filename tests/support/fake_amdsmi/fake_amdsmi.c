/* A libamd_smi.so for tests: real calls through AMD's own Python binding (amdsmi 7.0), pretended GPUs behind them.
 *
 * Only what Gridpace calls is written out; every other name that the binding looks up when it is imported is generated
 * by tests/support/fake_amdsmi.py and answers NOT_SUPPORTED. Layouts are those of the binding's structures. The cards are
 * an array that the test steers by `fake_card`.
 */
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVAL = 1, NOT_SUPPORTED = 2, NO_PERM = 10, NOT_FOUND = 31, NOT_INIT = 32 };

typedef struct {
    char uuid[40], name[64];
    uint64_t cap_uw, default_uw, min_uw, max_uw, board_uw; /* board: a lower limit that holds anyway; 0: none */
    uint32_t idle_w, demand_w, busy_percent, old;          /* old: tells an average only */
    uint32_t lost, no_permission, refuse, partition, set_calls, no_power;
    volatile uint32_t hang;
} Card;

static Card cards[16];
static uint32_t count, opened, stale; /* what was opened before a reload stays stale until it was shut down as often */

Card *fake_card(uint32_t place) { return &cards[place]; }
void fake_reset(uint32_t cards_there) { memset(cards, 0, sizeof cards); count = cards_there, stale = 0; }
void fake_unload(void) { stale = 1; }
static int ready(void) { return opened && !stale; }

typedef struct __attribute__((packed)) { uint64_t cap, default_cap, dpm, min, max, reserved[3]; } CapInfo;
typedef struct __attribute__((packed)) {
    uint64_t socket; uint32_t current, average; uint64_t volts[3]; uint32_t limit, padding; uint64_t reserved[18];
} PowerInfo;
typedef struct { uint32_t gfx, umc, mm, reserved[13]; } Usage;

static uint64_t in_force(const Card *card) {
    return card->board_uw && card->board_uw < card->cap_uw ? card->board_uw : card->cap_uw;
}

static int there(const Card *card) { return !ready() ? NOT_INIT : card->lost ? NOT_FOUND : OK; }

int amdsmi_init(uint64_t flags) { (void)flags; opened++; return OK; }
int amdsmi_shut_down(void) {
    if (!opened) return NOT_INIT;
    if (--opened == 0) stale = 0;
    return OK;
}

int amdsmi_get_socket_handles(uint32_t *found, void **handles) {
    if (!ready()) return NOT_INIT;
    *found = count;
    for (uint32_t place = 0; handles && place < count; place++) handles[place] = &cards[place];
    return OK;
}

int amdsmi_get_processor_handles(void *socket, uint32_t *found, void **handles) {
    if (!ready()) return NOT_INIT;
    *found = 1;
    if (handles) handles[0] = socket;
    return OK;
}

int amdsmi_get_gpu_device_uuid(Card *card, unsigned *length, char *uuid) {
    if (there(card)) return there(card);
    strncpy(uuid, card->uuid, *length);
    return OK;
}

int amdsmi_get_gpu_asic_info(Card *card, char *market_name) {
    if (there(card)) return there(card);
    strncpy(market_name, card->name, 64);
    return OK;
}

int amdsmi_get_power_cap_info(Card *card, uint32_t sensor, CapInfo *info) {
    (void)sensor;
    if (there(card)) return there(card);
    if (card->partition) return NOT_SUPPORTED;
    memset(info, 0, sizeof *info);
    info->cap = in_force(card), info->default_cap = card->default_uw;
    info->min = card->min_uw, info->max = card->max_uw;
    return OK;
}

int amdsmi_set_power_cap(Card *card, uint32_t sensor, uint64_t cap) {
    (void)sensor;
    while (card->hang) usleep(5000);
    if (there(card)) return there(card);
    if (card->no_permission) return NO_PERM;
    if (card->refuse || cap < card->min_uw || cap > card->max_uw) return INVAL;
    card->cap_uw = cap, card->set_calls++;
    return OK;
}

int amdsmi_get_power_info(Card *card, PowerInfo *info) {
    if (there(card)) return there(card);
    uint64_t cap_w = in_force(card) / 1000000, watts = card->demand_w < cap_w ? card->demand_w : cap_w;
    if (watts < card->idle_w) watts = card->idle_w;
    memset(info, 0xff, sizeof *info);
    if (!card->no_power && card->old) info->average = watts, info->socket = 0xFFFF;
    if (!card->no_power && !card->old) info->socket = watts, info->current = watts;
    return OK;
}

int amdsmi_get_gpu_activity(Card *card, Usage *usage) {
    if (there(card)) return there(card);
    usage->gfx = card->busy_percent > 100 ? 0xFFFF : card->busy_percent;
    return OK;
}
