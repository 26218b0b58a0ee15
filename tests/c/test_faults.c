/* The core on a kernel of our own, thousands of times a second: scripts made from seeds, in which calls fail.
 * After each round everything must be as promised, whatever has failed. Every second round is a wild one:
 * any call may fail in it, and so may memory; what the others do is told to the portable engine too.
 *
 *     test_faults                   FAULT_ROUNDS rounds from FAULT_SEED on, both from the environment
 *     test_faults SEED              one round, with its script and its trace
 *     test_faults trace SEED COUNT  the scripts and traces of so many that are not wild */

#include "../../evio_ext/core/config.h"
#include "../../evio_ext/core/evio.h"
#include "kernel.h"
#include "script.h"

/* Those of the core that say when, to check them against the clock. */
#define TICK_MIN (INT64_C(1000000000) / 60)
#define TICK_MAX INT64_C(1000000000)
#define ACCEPT_PAUSE INT64_C(250000000)
#define HIGH_WATER ((size_t)256 * 1024)

#define WOKEN_REPLY 3
#define GREETING 5
#define OWN_WAKE 10

/* the server: what it does, it does by the byte, however these are cut into pieces */

struct served {
    evio_conn *conn; /* between `accepted` and `closed` */
    evio_wake *wake;
    size_t received;
    size_t replied; /* bytes that are to be sent, as they were handed over */
    size_t queued;  /* of these, by wakes since the loop last asked for events */
    int naccepted, nclosed;
    bool silent;     /* does not echo */
    bool failed;     /* was said to have failed */
    bool refused;    /* by a wake, for more than max_pending was unsent then */
    bool asked;      /* for a call by wake() */
    int64_t leaving; /* when it was told to close, or -1 */
};

static struct {
    struct served clients[NCLIENTS + 1];
    uint64_t last_id;
    int64_t last_tick, stopping; /* or -1 */
    long retained;
    int nbuffers;
    bool inside; /* a hook */
} server;

static size_t high_water(void)
{
    return HIGH_WATER < (size_t)script.max_pending ? HIGH_WATER : (size_t)script.max_pending;
}

static struct served *served(evio_conn *conn)
{
    for (int number = 1; number <= NCLIENTS; number++)
        if (server.clients[number].conn == conn)
            return &server.clients[number];
    broken("a hook is called for a connection that is not open");
    kernel.given_up = true;
    return &server.clients[0];
}

static int number_of_served(const struct served *it)
{
    return (int)(it - server.clients);
}

static void enter(void)
{
    if (server.inside)
        broken("a hook inside another");
    server.inside = true;
}

static int leave(int verdict)
{
    server.inside = false;
    return verdict;
}

/* Sends the next bytes of the pattern in some pieces, of which one may be empty and some have an owner. */
static void reply(struct served *it, size_t nbytes)
{
    evio_piece pieces[12];
    size_t count = 0, offset = it->replied, part = nbytes / (1 + nbytes % 3) + 1;
    it->replied += nbytes;
    if (nbytes % 5 == 0)
        pieces[count++] = (evio_piece){NULL, 0, NULL};
    while (nbytes > 0) {
        size_t piece = part < nbytes ? part : nbytes;
        piece = piece < PATTERN_PIECE ? piece : PATTERN_PIECE;
        pieces[count++] = (evio_piece){output_at(number_of_served(it), offset), piece,
                                       piece % 2 ? pattern : NULL};
        offset += piece;
        nbytes -= piece;
    }
    evio_conn_send(it->conn, pieces, count);
}

static void wake_up(int number)
{
    struct served *it = &server.clients[number];
    if (it->wake == NULL)
        return;
    int open = evio_wake_call(it->wake);
    trace("wake %d %d", number, open);
    if (open != evio_wake_is_open(it->wake))
        broken("client %d is woken, and not open", number);
    it->asked |= open;
}

static void queue_up(int number, int nbytes)
{
    struct served *it = &server.clients[number];
    if (it->wake == NULL)
        return;
    evio_piece piece = {output_at(number, it->replied), (size_t)nbytes,
                        nbytes % 2 ? pattern : NULL};
    int queued = evio_wake_send(it->wake, &piece);
    trace("queue %d %d", number, queued);
    if (queued > 0) {
        it->replied += (size_t)nbytes;
        it->queued += (size_t)nbytes;
    }
    if (queued == 0 && it->replied - kernel.clients[number].taken > (size_t)script.max_pending)
        it->refused = true;
    if (queued < 0 && !kernel.no_memory)
        broken("client %d cannot be queued for", number);
}

static int accepted(void *data, evio_conn *conn, const evio_peer *peer)
{
    char text[EVIO_PEER_TEXT], expected[EVIO_PEER_TEXT];
    int verdict = EVIO_KEEP, number;
    (void)data;
    enter();
    evio_peer_text(peer, text);
    number = atoi(strchr(text, ':') + 1);
    snprintf(expected, sizeof expected, "10.0.0.1:%d", number);
    struct served *it = &server.clients[number];
    const char mode = kernel.clients[number].mode;
    if (strcmp(text, expected) != 0)
        broken("a peer at %s", text);
    if (evio_conn_id(conn) != ++server.last_id)
        broken("ids are not ascending");
    if (it->naccepted++ > 0)
        broken("client %d is accepted twice", number);
    trace("accept %d id %d", number, (int)evio_conn_id(conn));
    it->conn = conn;
    it->wake = evio_conn_wake(conn);
    if (it->wake == NULL) {
        if (!kernel.no_memory)
            broken("client %d has no wake", number);
        it->failed = true;
        return leave(EVIO_FAIL);
    }
    if (mode == 'W') {
        queue_up(number, OWN_WAKE);
        wake_up(number);
    }
    if (mode == 'F') {
        it->failed = true;
        verdict = EVIO_FAIL;
    }
    if (mode == 'G' || mode == 'c')
        reply(it, GREETING);
    if (mode == 'c' || mode == 'C') {
        it->leaving = kernel.now;
        verdict = EVIO_CLOSE;
    }
    return leave(verdict);
}

/* Small letters are echoed; what the capital ones do, and that they are not, is here. */
static int on_data(void *data, evio_conn *conn, const char *bytes, size_t nbytes, void *owner)
{
    struct served *it = served(conn);
    struct client *client = &kernel.clients[number_of_served(it)];
    int number = number_of_served(it), verdict = EVIO_KEEP;
    size_t answer = 0, unsent = it->replied - client->taken;
    (void)data;
    enter();
    if (it->leaving >= 0)
        broken("client %d is closing, and there is data", number);
    if (unsent > high_water() + it->queued)
        broken("client %d is read while %zu bytes are unsent", number, unsent);
    trace("data %d %zu+%zu", number, it->received, nbytes);
    for (size_t i = 0; i < nbytes && verdict == EVIO_KEEP; i++) {
        switch (bytes[i]) {
        case 'E':
            it->silent = false;
            break;
        case 'S':
            it->silent = true;
            break;
        case 'B':
            answer += (size_t)script.big;
            break;
        case 'W':
            wake_up(number);
            break;
        case 'V':
            queue_up(number, OWN_WAKE);
            break;
        case 'X': /* another's */
            wake_up(1 + number % NCLIENTS);
            queue_up(1 + (number + 3) % NCLIENTS, OWN_WAKE);
            break;
        case 'Q':
            verdict = EVIO_CLOSE;
            break;
        case 'F':
            verdict = EVIO_FAIL;
            break;
        default:
            if (bytes[i] != input_at(number, it->received + i)) {
                broken("client %d has wrong data at offset %zu", number, it->received + i);
                verdict = EVIO_FAIL;
            }
            answer += !it->silent;
        }
    }
    it->received += nbytes;
    if (it->received != client->received)
        broken("client %d has lost data", number);
    free(owner);
    server.nbuffers -= owner != NULL;
    if (verdict == EVIO_FAIL)
        it->failed = true;
    else
        reply(it, answer);
    if (verdict == EVIO_CLOSE)
        it->leaving = kernel.now;
    return leave(verdict);
}

static int woken(void *data, evio_conn *conn)
{
    struct served *it = served(conn);
    (void)data;
    enter();
    trace("woken %d", number_of_served(it));
    if (!it->asked)
        broken("client %d is woken, and has not asked", number_of_served(it));
    it->asked = false;
    reply(it, WOKEN_REPLY);
    return leave(EVIO_KEEP);
}

static const char *end_name(int end)
{
    static const char *const names[] = {"none", "failed", "idle", "linger", "overflow"};
    return end >= 0 ? names[end] : error_name(end == -EPIPE ? ECONNRESET : -end);
}

/* Whether a send would be taken: not where the script has it fail. */
static bool has_room(const struct client *client)
{
    for (int i = 0; i < client->nfaults; i++)
        if (client->faults[i].call == SEND && client->faults[i].at == client->taken)
            return false;
    return client->window > 0 && kernel.odds == 0;
}

/* Whether a connection could end so: what must have happened before. */
static void check_end(const struct served *it, int end)
{
    int number = number_of_served(it);
    const struct client *client = &kernel.clients[number];
    int64_t silence = kernel.now - client->moved_at, kept = kernel.now - client->sent_at;
    size_t unsent = it->replied - client->taken;
    bool leaving = it->leaving >= 0;
    int64_t since = client->sent_at > it->leaving ? kept : kernel.now - it->leaving;
    if (server.stopping >= 0 || kernel.given_up) {
        if (end != 0)
            broken("client %d ends with %s while stopping", number, end_name(end));
        return;
    }
    switch (end) {
    case 0:
        if (!leaving && !client->ended && !kernel.poll_failed)
            broken("client %d is closed without a reason", number);
        if (unsent > 0)
            broken("client %d is closed with %zu bytes unsent", number, unsent);
        if (it->asked && !leaving)
            broken("client %d is closed, and was not woken", number);
        if (leaving && !client->ended && !client->failed &&
            (!client->shut || kept < script.linger * UNIT))
            broken("client %d is closed before its end or linger", number);
        break;
    case EVIO_END_FAILED:
        if (!it->failed)
            broken("client %d has failed by itself", number);
        break;
    case EVIO_END_IDLE:
        if (script.idle == 0 || silence < script.idle * UNIT || leaving)
            broken("client %d is not idle", number);
        if (unsent > 0 && has_room(client))
            broken("client %d is idle with room for more", number);
        break;
    case EVIO_END_LINGER:
        if (!leaving || client->shut || since < script.linger * UNIT || unsent == 0)
            broken("client %d has not lingered", number);
        if (has_room(client))
            broken("client %d has lingered with room for more", number);
        break;
    case EVIO_END_OVERFLOW:
        if (unsent <= (size_t)script.max_pending && !it->refused)
            broken("client %d has only %zu bytes unsent", number, unsent);
        break;
    case -ENOMEM:
        if (!kernel.no_memory && !client->failed)
            broken("client %d has no memory", number);
        break;
    default:
        if (!client->failed)
            broken("client %d ends with %s", number, error_name(-end));
    }
}

static int closed(void *data, evio_conn *conn, int end)
{
    struct served *it = served(conn);
    int number = number_of_served(it);
    (void)data;
    enter();
    trace("closed %d %s", number, end_name(end));
    if (it->nclosed++ > 0)
        broken("client %d is closed twice", number);
    if (kernel.clients[number].place != LEFT)
        broken("client %d has its descriptor yet", number);
    if (it->wake != NULL && evio_wake_call(it->wake) != 0)
        broken("client %d is woken after its end", number);
    check_end(it, end);
    it->conn = NULL;
    return leave(EVIO_KEEP);
}

static int tick(void *data)
{
    (void)data;
    enter();
    if (server.last_tick >= 0 && kernel.now - server.last_tick < TICK_MIN)
        broken("a tick too early");
    server.last_tick = kernel.now;
    if (!kernel.asked_to_stop)
        return leave(EVIO_KEEP);
    server.stopping = kernel.now;
    trace("stop");
    return leave(EVIO_CLOSE);
}

static int keep(void *data)
{
    (void)data;
    enter();
    return leave(EVIO_KEEP);
}

static void asleep(void *data)
{
    (void)data;
    enter();
}

static void awake(void *data)
{
    (void)data;
    leave(0);
}

static int accept_paused(void *data, int error)
{
    (void)data;
    enter();
    trace("paused %s", error_name(-error));
    return leave(EVIO_KEEP);
}

static void *new_buffer(void *data, size_t nbytes, char **bytes)
{
    (void)data;
    if (kernel.odds > 0 && chance(&kernel.dice, 10))
        return NULL;
    server.nbuffers++;
    return *bytes = malloc(nbytes);
}

static void retain(void *owner)
{
    (void)owner;
    server.retained++;
}

static void release(void *owner)
{
    if (owner == pattern) {
        server.retained--;
        return;
    }
    server.nbuffers--;
    free(owner);
}

static const evio_hooks hooks = {
    .accepted = accepted,
    .data = on_data,
    .woken = woken,
    .closed = closed,
    .tick = tick,
    .interrupted = keep,
    .breathe = keep,
    .sleep = asleep,
    .awake = awake,
    .accept_paused = accept_paused,
    .buffer = new_buffer,
    .retain = retain,
    .release = release,
};

/* What must be so whenever the loop has nothing to do: all that was due has been done. */
static void about_to_sleep(void)
{
    size_t open = 0;
    for (int number = 1; number <= script.nclients; number++) {
        struct served *it = &server.clients[number];
        const struct client *client = &kernel.clients[number];
        it->queued = 0;
        if (it->conn == NULL)
            continue;
        open++;
        if (it->asked && it->leaving < 0)
            broken("client %d was not woken", number);
        if (server.stopping >= 0)
            continue;
        if (it->leaving < 0 && script.idle > 0 &&
            kernel.now - client->moved_at >= script.idle * UNIT)
            broken("client %d may be idle too long", number);
        if (it->leaving >= 0 && kernel.now - it->leaving >= script.linger * UNIT &&
            kernel.now - client->sent_at >= script.linger * UNIT)
            broken("client %d may linger too long", number);
        if (it->leaving < 0 && client->received < client->sent && !client->reset &&
            it->replied - client->taken <= high_water() / 2)
            broken("client %d is not read", number);
    }
    if (server.stopping >= 0 && kernel.now - server.stopping >= script.linger * UNIT)
        broken("stopping takes too long");
    if (server.stopping < 0 && kernel.now - server.last_tick > TICK_MAX)
        broken("no tick");
    if (server.stopping < 0 && kernel.nbacklog > 0 && kernel.exhausted_at < 0 &&
        !kernel.no_memory && (script.max_conns == 0 || open < (size_t)script.max_conns))
        broken("a client is not accepted");
    if (kernel.exhausted_at >= 0 && kernel.nbacklog > 0 &&
        kernel.now - kernel.exhausted_at >= ACCEPT_PAUSE && server.stopping < 0 &&
        (script.max_conns == 0 || open < (size_t)script.max_conns))
        broken("accepting is not tried again");
}

/* rounds */

static void serve(void)
{
    evio_loop *loop;
    evio_options options = {.listener = open_descriptor(LISTENER),
                            .interrupts = open_descriptor(INTERRUPTS),
                            .ticks = true,
                            .exclusive = true,
                            .nodelay = true,
                            .keepalive_s = 1,
                            .idle_ns = script.idle * UNIT,
                            .linger_ns = script.linger * UNIT,
                            .max_conns = (size_t)script.max_conns,
                            .max_pending = (size_t)script.max_pending};
    int error = evio_loop_new(&loop, &options, &hooks, NULL);
    if (error == 0) {
        error = evio_loop_run(loop);
        if (error != 0 && !kernel.poll_failed && !kernel.given_up)
            broken("run fails with %s", error_name(-error));
        evio_loop_free(loop);
    } else if (kernel.odds == 0)
        broken("there is no loop: %s", error_name(-error));
    tell_clients();
    trace("end");
    kernel.descriptors[options.listener].kind = FREE;
    kernel.descriptors[options.interrupts].kind = FREE;
}

static void check_remains(void)
{
    for (int number = 1; number <= NCLIENTS; number++) {
        struct served *it = &server.clients[number];
        if (it->naccepted != it->nclosed)
            broken("client %d is accepted %d times, and closed %d times", number, it->naccepted,
                   it->nclosed);
        if (it->wake == NULL)
            continue;
        if (evio_wake_call(it->wake) != 0)
            broken("client %d is woken after the server", number);
        evio_wake_release(it->wake);
    }
    for (int fd = 0; fd < NDESCRIPTORS; fd++)
        if (kernel.descriptors[fd].kind != FREE)
            broken("descriptor %d is not closed", fd);
    if (kernel.allocated != 0)
        broken("%ld pieces of memory are not freed", kernel.allocated);
    if (server.retained != 0 || server.nbuffers != 0)
        broken("%ld pieces and %d buffers are not released", server.retained, server.nbuffers);
}

/* Returns whether all was as promised. */
static bool play(uint64_t seed, bool wild, bool loud)
{
    memset(&kernel, 0, sizeof kernel);
    memset(&server, 0, sizeof server);
    kernel.loud = loud;
    kernel.exhausted_at = server.last_tick = server.stopping = -1;
    for (int number = 0; number <= NCLIENTS; number++) {
        kernel.clients[number].fd = -1;
        server.clients[number].leaving = -1;
    }
    prepare(seed, wild);
    if (loud) {
        printf("round %llu\n", (unsigned long long)seed);
        print_script();
        printf("trace\n");
    }
    serve();
    check_remains();
    return kernel.nbroken == 0;
}

static bool is_wild(uint64_t seed)
{
    return seed % 2 != 0;
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
    const char *value = getenv(name);
    return value != NULL ? strtoull(value, NULL, 10) : otherwise;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    enum { FAILURES_MAX = 3 };
    uint64_t rounds = from_environment("FAULT_ROUNDS", 20000),
             first = from_environment("FAULT_SEED", 0);
    uint64_t failed = 0, done = 0;
    make_pattern();
    if (argc == 4 && strcmp(argv[1], "trace") == 0) {
        first = strtoull(argv[2], NULL, 10);
        rounds = strtoull(argv[3], NULL, 10);
        for (uint64_t seed = first; seed < first + rounds; seed++)
            failed += !play(seed, false, true);
        return failed != 0;
    }
    if (argc == 2) {
        first = strtoull(argv[1], NULL, 10);
        return !play(first, is_wild(first), true);
    }
    double start = seconds();
    for (; done < rounds && failed < FAILURES_MAX; done++) {
        if (play(first + done, is_wild(first + done), false))
            continue;
        failed++;
        play(first + done, is_wild(first + done), true);
        printf("again by: %s %llu\n", argv[0], (unsigned long long)(first + done));
    }
    printf("%llu rounds, %llu failed; %.0f a second\n", (unsigned long long)done,
           (unsigned long long)failed, (double)done / (seconds() - start));
    return failed != 0;
}
