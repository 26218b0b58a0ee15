/* The framings on their own, without Python: what they find, and that they look at no byte behind the end. */

#include "../../evio_ext/core/config.h" /* which asks libc for MAP_ANONYMOUS */

#include "check.h"
#include "reader.h"

#include <sys/mman.h>
#include <unistd.h>

#define REQUESTS                                                                                   \
    "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$12\r\nhello\r\nworld\r\n"                                    \
    "*0\r\nPING\r\n*1\r\n$4\r\nPING\r\n*6\r\n$1\r\na\r\n$0\r\n\r\n$1\r\nb\r\n$1\r\nc\r\n$"         \
    "1\r\nd\r\n$1\r\ne\r\n"                                                                        \
    "ECHO \"a\\x41\\n\" 'it\\'s' x\"y\"\r\n*2\r\n$4\r\nECHO\r\n$-2\r\nPING\r\n"

static struct reader resp_reader(size_t room)
{
    return (struct reader){.kind = RESP, .room = room, .resp = {.max_size = 512u * 1024 * 1024}};
}

static struct reader lines_reader(const char *separator, size_t max_size)
{
    return (struct reader){.kind = LINES, .lines = {separator, strlen(separator), max_size, 0}};
}

static struct reader prefixed_reader(unsigned width, bool little, size_t max_size)
{
    return (struct reader){.kind = PREFIXED, .prefixed = {width, little, max_size}};
}

/* Whether a stream holds these messages, `failed` or not at its end, and is the same however it is cut. */
static bool finds(struct reader fresh, const char *data, size_t nbytes, const char *const *messages,
                  bool failed)
{
    struct reader expected = fresh;
    for (; *messages != NULL; messages++)
        note(&expected, *messages, strlen(*messages));
    expected.failed = failed;
    size_t all = 0;
    struct reader whole = read_stream(fresh, data, nbytes, same_size, &all);
    bool same = found_same(&whole, &expected);
    reader_clear(&whole);
    reader_clear(&expected);
    return same && is_same_however_cut(&fresh, data, nbytes, (uint32_t)nbytes);
}

#define FINDS(fresh, data, failed, ...)                                                            \
    finds(fresh, data, sizeof(data) - 1, (const char *const[]){__VA_ARGS__, NULL}, failed)

static void test_lines(void)
{
    CHECK(FINDS(lines_reader("\n", 5), "a\r\n\nb\rc\n12345\r\npart", false, "a", "", "b\rc",
                "12345"));
    CHECK(FINDS(lines_reader("\n", 5), "a\n123456\nb\n", true, "a", "bad"));
    CHECK(FINDS(lines_reader("\n", 5), "a\n1234567", true, "a", "bad"));
    CHECK(FINDS(lines_reader("\n", 5), "a\n12345\r", false, "a"));
    CHECK(FINDS(lines_reader("aab", 5), "aaab12aabaa", false, "a", "12"));
    CHECK(FINDS(lines_reader("aab", 5), "123456aab", true, "bad"));
    CHECK(FINDS(lines_reader("aa", 5), "aaaa", false, "", ""));
}

static void test_prefixed(void)
{
    CHECK(FINDS(prefixed_reader(1, false, 255), "\x02hi\x00\x01!\x05part", false, "hi", "", "!"));
    CHECK(FINDS(prefixed_reader(2, true, 1000), "\x02\x00hi\xff\xff", true, "hi", "bad"));
    CHECK(FINDS(prefixed_reader(4, false, 1000), "\x00\x00\x00\x02hi\x00\x00", false, "hi"));
    CHECK(FINDS(prefixed_reader(8, false, SIZE_MAX), "\xff\xff\xff\xff\xff\xff\xff\xff", false,
                NULL));
}

static void test_requests(void)
{
    for (size_t room = 0; room <= 4; room++)
        CHECK(FINDS(resp_reader(room), REQUESTS, true, "SET", "key", "hello\r\nworld",
                    "end of request", "PING", "end of request", "PING", "end of request", "a", "",
                    "b", "c", "d", "e", "end of request", "ECHO", "aA\n", "it's", "xy",
                    "end of request", "invalid bulk length"));
    CHECK(FINDS(resp_reader(4), "*1\r\nfoo\r\n", true, "expected '$', got 'f'"));
    CHECK(FINDS(resp_reader(4), "*2147483648\r\n", true, "invalid multibulk length"));
    CHECK(FINDS(resp_reader(4), "ECHO \"a\r\n", true, "unbalanced quotes in request"));
}

/* Each beginning of the stream, right before a page that may not be touched. */
static void test_no_byte_behind_the_end_is_read(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), length;
    uint64_t size;
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + page, page, PROT_NONE) == 0);
    for (size_t nbytes = 0; nbytes < sizeof(REQUESTS); nbytes++) {
        char *data = pages + page - nbytes;
        memcpy(data, REQUESTS, nbytes);
        struct reader reader = resp_reader(4), lines = lines_reader("\r\n$", 100);
        struct resp_arg lent[8];
        resp_resume(&reader.resp, lent, 8);
        ssize_t taken;
        size_t used = 0;
        while ((taken = resp_next(&reader.resp, data + used, nbytes - used)) > 0)
            used += (size_t)taken;
        CHECK(taken == FRAME_PARTIAL || taken == FRAME_BAD);
        CHECK(lines_next(&lines.lines, data, nbytes, &length) != 0);
        CHECK(prefixed_next(&(struct prefixed){8, true, SIZE_MAX}, data, nbytes, &size) ==
              FRAME_PARTIAL);
        resp_clear(&reader.resp);
    }
    munmap(pages, 2 * page);
}

/* What is held follows what has come, whatever a header says. */
static void test_memory_follows_the_bytes_received(void)
{
    static const char *const promises[] = {"*2147483647\r\n$1\r\na\r\n$1\r\n",
                                           "*1\r\n$536870912\r\nv", "*2147483647\r"};
    for (size_t i = 0; i < 3; i++) {
        struct reader reader = resp_reader(4);
        feed(&reader, promises[i], strlen(promises[i]));
        CHECK(!reader.failed && reader.hold.room <= 64 && reader.resp.room <= 16);
        reader_clear(&reader);
    }
    struct reader large = resp_reader(4);
    feed(&large, "*1\r\n$1048576\r\n", 14);
    char *value = not_null(calloc(1, 1048578));
    feed(&large, value, 1048577);
    CHECK(large.hold.nbytes == 1048591 && large.found.nbytes == 0);
    feed(&large, value, 1);
    CHECK(large.hold.room == 0 &&
          large.found.nbytes > 1048576); /* nothing is kept of what is complete */
    free(value);
    reader_clear(&large);
}

int main(void)
{
    test_lines();
    test_prefixed();
    test_requests();
    test_no_byte_behind_the_end_is_read();
    test_memory_follows_the_bytes_received();
    return checked();
}
