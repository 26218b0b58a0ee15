/* Scripts: what the clients and other threads do, at which time, and which calls fail. Made from a seed,
 * printed one thing a line (tests/unit/simulated.py reads them), and carried out by the kernel. */

#ifndef SCRIPT_H
#define SCRIPT_H

#include "kernel.h"

enum { NACTIONS = 64, NSTEPS_MIN = 3, NSTEPS_MAX = 16 };

/* Steps and time-outs are multiples of STEP units, so that it often happens that both are due. A tick is
 * not: how the server stops is seen LATER units after it was asked to, whichever way its ticks fell. */
enum { STEP = 8, LATER = 5 };

struct action {
    int at; /* in units */
    enum what { CONNECT, SENDS, END, RESET, TAKE, WAKE, QUEUE, STOP } what;
    int client;
    char how;   /* CONNECT: the mode; SENDS: the command, '-' for none */
    int nbytes; /* SENDS, TAKE, QUEUE */
};
static const char *const action_names[] = {"connect", "send", "end",   "reset",
                                           "take",    "wake", "queue", "stop"};

struct script {
    int idle, linger; /* in units; 0: no idle time-out */
    int max_conns, max_pending;
    int big; /* bytes that 'B' is answered with */
    int nclients, nfaults, nactions, next;
    struct {
        int window, low;
    } clients[NCLIENTS + 1]; /* by number */
    struct {
        int client; /* 0: the listener */
        struct fault fault;
    } faults[NCLIENTS * NFAULTS + 1];
    struct action actions[NACTIONS];
};
static struct script script;

/* The first seeds are these, of what was once found. */
static const struct script known[] = {
    {/* A listener that cannot be watched again after a pause does not end the server. */
     .linger = 2 * STEP,
     .max_pending = 3000,
     .nclients = 2,
     .clients[1] = {1000, 1},
     .clients[2] = {1000, 1},
     .nfaults = 2,
     .faults = {{2, {ACCEPT, 0, EMFILE, 1}}, {0, {WATCH, 1, ENOSPC, 1}}},
     .nactions = 5,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, CONNECT, 2, '-', 0},
                 {24, SENDS, 1, '-', 9},
                 {96, SENDS, 2, '-', 9},
                 {104, STOP, 0, '-', 0}}},
    {/* What is sent on a call that a wake asked for, at the stream's end, is activity. */
     .idle = 8 * STEP,
     .linger = 2 * STEP,
     .max_pending = 3000,
     .nclients = 1,
     .clients[1] = {10, 1},
     .nactions = 5,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {56, QUEUE, 1, '-', 500},
                 {56, END, 1, '-', 0},
                 {56, WAKE, 1, '-', 0},
                 {200, STOP, 0, '-', 0}}},
    {/* A stop does not wait for one that has nothing unread, whatever it has dropped before. */
     .linger = 72,
     .max_pending = 3000,
     .nclients = 1,
     .clients[1] = {1000, 1},
     .nactions = 5,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, SENDS, 1, 'Q', 5},
                 {24, SENDS, 1, '-', 9},
                 {32, STOP, 0, '-', 0},
                 {61, WAKE, 1, '-', 0}}},
    {/* A stop sends where there is room that the poller has not told of. */
     .linger = 72,
     .max_pending = 3000,
     .nclients = 1,
     .clients[1] = {10, 1000},
     .nactions = 5,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, SENDS, 1, '-', 30},
                 {24, TAKE, 1, '-', 100},
                 {32, STOP, 0, '-', 0},
                 {61, WAKE, 1, '-', 0}}},
    {/* A stop has one deadline for all, shorter idle time-outs or not. */
     .idle = 24,
     .linger = 72,
     .max_pending = 3000,
     .nclients = 1,
     .clients[1] = {10, 1},
     .nactions = 4,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, SENDS, 1, '-', 30},
                 {24, STOP, 0, '-', 0},
                 {85, TAKE, 1, '-', 100}}},
    {/* So it has where the peer's end has been seen. */
     .idle = 24,
     .linger = 72,
     .max_pending = 3000,
     .nclients = 1,
     .clients[1] = {10, 1},
     .nactions = 5,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, SENDS, 1, '-', 30},
                 {24, END, 1, '-', 0},
                 {32, STOP, 0, '-', 0},
                 {93, TAKE, 1, '-', 100}}},
    {/* A wake that is refused for too much unsent closes the connection, also where a reply does. */
     .linger = 72,
     .max_pending = 300,
     .nclients = 1,
     .clients[1] = {10, 1},
     .nactions = 6,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, QUEUE, 1, '-', 5000},
                 {16, QUEUE, 1, '-', 500},
                 {16, SENDS, 1, 'Q', 1},
                 {24, TAKE, 1, '-', 10000},
                 {32, STOP, 0, '-', 0}}},
    {/* What a wake has queued at the stream's end is sent before the call, so it need not be waiting. */
     .linger = 72,
     .max_pending = 300,
     .nclients = 1,
     .clients[1] = {10000, 1},
     .nactions = 5,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, WAKE, 1, '-', 0},
                 {16, QUEUE, 1, '-', 500},
                 {16, END, 1, '-', 0},
                 {24, STOP, 0, '-', 0}}},
    {/* At the stream's end as well what waits is sent where there is room. */
     .linger = 72,
     .max_pending = 3000,
     .nclients = 1,
     .clients[1] = {10, 1000},
     .nactions = 5,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, SENDS, 1, '-', 30},
                 {24, TAKE, 1, '-', 100},
                 {24, END, 1, '-', 0},
                 {32, STOP, 0, '-', 0}}},
    {/* A reply behind nothing is tried at once, even if the poller was asked to tell of room. */
     .linger = 72,
     .max_pending = 300,
     .big = 5000,
     .nclients = 1,
     .clients[1] = {10, 1},
     .nactions = 6,
     .actions = {{8, CONNECT, 1, '-', 0},
                 {16, SENDS, 1, '-', 30},
                 {24, SENDS, 1, 'B', 1},
                 {24, WAKE, 1, '-', 0},
                 {24, TAKE, 1, '-', 100},
                 {32, STOP, 0, '-', 0}}},
};
enum { NKNOWN = sizeof known / sizeof *known };

/* What the test does with its server. */
static void wake_up(int number);
static void queue_up(int number, int nbytes);

static const char *error_name(int error)
{
    switch (error) {
#define NAME(error)                                                                                \
    case error:                                                                                    \
        return #error;
        NAME(EAGAIN)
        NAME(EINTR)
        NAME(ENOBUFS)
        NAME(EPIPE)
        NAME(ECONNRESET)
        NAME(ETIMEDOUT)
        NAME(EMFILE)
        NAME(ENFILE)
        NAME(ENOMEM)
        NAME(ENOSPC)
        NAME(ECONNABORTED)
        NAME(EPROTO)
        NAME(ENETDOWN)
        NAME(ENOTCONN)
        NAME(EINVAL)
        NAME(EHOSTUNREACH)
#undef NAME
    default:
        return "SHORT";
    }
}

/* making one */

static int pick(struct dice *dice, const int *values, int count)
{
    return values[below(dice, count)];
}
#define PICK(dice, ...)                                                                            \
    pick(dice, (const int[]){__VA_ARGS__}, (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)))

/* An offset near where something is likely to happen. */
static size_t some_offset(struct dice *dice)
{
    return (size_t)PICK(dice, 0, 1, 2, 3, 7, 10, 30, 50, 100, 200, 500, 1000, script.big,
                        script.big + 1, 2 * script.big);
}

static void add_fault(struct dice *dice, int client)
{
    struct fault *fault = &script.faults[script.nfaults].fault;
    script.faults[script.nfaults++].client = client;
    fault->call = (enum call)PICK(dice, ACCEPT, ACCEPT, WATCH, TUNE, RECV, RECV, RECV, SEND, SEND,
                                  SEND, SEND, SHUTDOWN);
    fault->times = 1 + (chance(dice, 30) ? below(dice, 3) : 0);
    switch (fault->call) {
    case ACCEPT:
        fault->error =
            PICK(dice, EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED, EPROTO, ENETDOWN, EINTR);
        break;
    case WATCH:
        fault->error = PICK(dice, ENOMEM, ENOSPC);
        break;
    case TUNE:
        fault->error = EINVAL;
        break;
    case RECV:
        fault->at = some_offset(dice);
        fault->error = PICK(dice, 0, EAGAIN, EAGAIN, EINTR, ECONNRESET, ETIMEDOUT);
        break;
    case SEND:
        fault->at = some_offset(dice);
        fault->error =
            PICK(dice, 0, 0, EAGAIN, EAGAIN, ENOBUFS, EINTR, EPIPE, ECONNRESET, ETIMEDOUT);
        break;
    case SHUTDOWN:
        fault->error = ENOTCONN;
        break;
    }
}

static void add_action(struct dice *dice, int at, bool wild)
{
    struct action *action = &script.actions[script.nactions++];
    *action = (struct action){.at = at, .how = '-'};
    int most = wild && chance(dice, 3) ? 300000 : chance(dice, 10) ? 16000 : 60;
    if (script.nclients == 0 || (script.nclients < NCLIENTS && chance(dice, 18))) {
        action->what = CONNECT;
        action->client = ++script.nclients;
        action->how = "------GGcCFW"[below(dice, 12)];
        return;
    }
    action->client = 1 + below(dice, script.nclients);
    if (chance(dice, 60)) /* the latest are the most likely to be there yet */
        action->client = script.nclients - (script.nclients > 1 ? below(dice, 2) : 0);
    action->nbytes = 1 + below(dice, most);
    action->what = (enum what)PICK(dice, SENDS, SENDS, SENDS, SENDS, SENDS, SENDS, END, RESET, TAKE,
                                   TAKE, TAKE, WAKE, QUEUE);
    switch (action->what) {
    case SENDS:
        action->how =
            (wild ? "-------BBBSEQFWVXX" : "-------BBBSEQFWV")[below(dice, wild ? 18 : 16)];
        break;
    case END:
        if (chance(dice, 40))
            action->what = SENDS;
        break;
    case RESET:
        if (chance(dice, 70))
            action->what = SENDS;
        break;
    case TAKE:
        action->nbytes = PICK(dice, 1, 100, 1000, 10000, script.big, 1000000);
        break;
    case QUEUE:
        action->nbytes = PICK(dice, 1, 10, 500, 1500, 5000);
        break;
    default:
        break;
    }
}

/* Makes the script of a seed. A wild one has larger pieces, and calls that fail anywhere. */
static void make_script(uint64_t seed, bool wild)
{
    struct dice dice = {(seed + 1) * UINT64_C(0x9E3779B97F4A7C15)}; /* never 0, which stays 0 */
    for (int i = 0; i < 8; i++)
        roll(&dice); /* neighbouring seeds have gone apart */
    memset(&script, 0, sizeof script);
    script.idle = STEP * PICK(&dice, 0, 0, 3, 8, 20);
    script.linger = STEP * PICK(&dice, 2, 5, 9);
    script.max_conns = PICK(&dice, 0, 0, 0, 1, 2);
    script.max_pending = PICK(&dice, 0, 300, 3000, 50000, 1000000);
    script.big = PICK(&dice, 200, 1500, 1500, 5000, 30000, 100000);
    for (int number = 1; number <= NCLIENTS; number++) {
        script.clients[number].window = PICK(&dice, 0, 10, 1000, 10000, 1000000, 1000000);
        script.clients[number].low = PICK(&dice, 1, 1, 100, 1000);
        for (int i = 0; i < NFAULTS && chance(&dice, 35); i++)
            add_fault(&dice, number);
    }
    if (chance(&dice,
               10)) { /* it is watched anew after each pause, and where there is room again */
        script.faults[script.nfaults].client = 0;
        script.faults[script.nfaults++].fault =
            (struct fault){WATCH, (size_t)below(&dice, 3), PICK(&dice, ENOMEM, ENOSPC), 1};
    }
    int at = STEP, nsteps = NSTEPS_MIN + below(&dice, NSTEPS_MAX - NSTEPS_MIN);
    int stop_before = nsteps - (chance(&dice, 50) ? below(&dice, 4) : 0);
    bool stopped = false;
    for (int step = 0; step < nsteps; step++) {
        if (step == stop_before) {
            script.actions[script.nactions++] = (struct action){.at = at, .what = STOP, .how = '-'};
            at += LATER;
            stopped = true;
        }
        int count = 1 + (chance(&dice, 40) ? below(&dice, 4) : 0);
        while (count-- > 0 && script.nactions < NACTIONS - 2)
            add_action(&dice, at, wild);
        at += STEP * (chance(&dice, 70) ? 1 : 1 + below(&dice, 12));
    }
    if (!stopped)
        script.actions[script.nactions++] = (struct action){.at = at, .what = STOP, .how = '-'};
    kernel.odds = wild ? PICK(&dice, 0, 20, 100, 500) : 0;
    kernel.dice = dice;
}

/* The script of a seed, which the kernel is then ready for. */
static void prepare(uint64_t seed, bool wild)
{
    if (seed < NKNOWN)
        script = known[seed];
    else
        make_script(seed, wild);
    for (int number = 1; number <= NCLIENTS; number++) {
        kernel.clients[number].window = (size_t)script.clients[number].window;
        kernel.clients[number].low = (size_t)script.clients[number].low;
    }
    for (int i = 0; i < script.nfaults; i++) {
        struct client *client = &kernel.clients[script.faults[i].client];
        client->faults[client->nfaults++] = script.faults[i].fault;
    }
}

static void print_script(void)
{
    printf("options idle %d linger %d max_conns %d max_pending %d big %d\n", script.idle,
           script.linger, script.max_conns, script.max_pending, script.big);
    for (int number = 1; number <= script.nclients; number++)
        printf("client %d window %d low %d\n", number, script.clients[number].window,
               script.clients[number].low);
    for (int i = 0; i < script.nfaults; i++) {
        const struct fault *fault = &script.faults[i].fault;
        if (script.faults[i].client <= script.nclients)
            printf("fault %d %s %zu %s %d\n", script.faults[i].client, call_names[fault->call],
                   fault->at, error_name(fault->error), fault->times);
    }
    for (int i = 0; i < script.nactions; i++) {
        const struct action *action = &script.actions[i];
        printf("at %d %s %d %c %d\n", action->at, action_names[action->what], action->client,
               action->how, action->nbytes);
    }
    if (kernel.odds > 0)
        printf("and %d of 10,000 calls fail\n", kernel.odds);
}

/* carrying it out */

/* What the clients have got since it was told last. */
static void tell_clients(void)
{
    for (int number = 1; number <= script.nclients; number++) {
        struct client *client = &kernel.clients[number];
        const char *end = client->cut                             ? "reset"
                          : client->shut || client->place == LEFT ? "eof"
                                                                  : "open";
        if (client->place == AWAY ||
            (client->told_taken == client->taken && client->told_end == end))
            continue;
        trace("client %d has %zu %s", number, client->taken, end);
        client->told_taken = client->taken;
        client->told_end = end;
    }
}

static void act(const struct action *action)
{
    struct client *client = &kernel.clients[action->client];
    bool sends = client->place != AWAY && client->place != LEFT && !client->end && !client->reset;
    switch (action->what) {
    case CONNECT:
        client->place = QUEUED;
        client->mode = action->how;
        kernel.backlog[kernel.nbacklog++] = action->client;
        break;
    case SENDS:
        if (sends && client->nsegments < NSEGMENTS) {
            client->sent += (size_t)action->nbytes;
            client->segments[client->nsegments++] = (struct segment){client->sent, action->how};
        }
        break;
    case END:
        client->end = client->end || sends;
        break;
    case RESET:
        client->reset = client->reset || client->place != AWAY;
        break;
    case TAKE:
        client->window += (size_t)action->nbytes;
        client->full = client->full && client->window < client->low;
        break;
    case WAKE:
        wake_up(action->client);
        break;
    case QUEUE:
        queue_up(action->client, action->nbytes);
        break;
    case STOP:
        kernel.asked_to_stop = true;
        for (int fd = 0; fd < NDESCRIPTORS; fd++)
            if (kernel.descriptors[fd].kind == INTERRUPTS)
                kernel.descriptors[fd].count = 1;
        break;
    }
}

static int64_t next_step_at(void)
{
    return script.next < script.nactions ? script.actions[script.next].at * UNIT : INT64_MAX;
}

static void take_step(void)
{
    int at = script.actions[script.next].at;
    tell_clients();
    trace("step %d", at);
    while (script.next < script.nactions && script.actions[script.next].at == at)
        act(&script.actions[script.next++]);
}

#endif
