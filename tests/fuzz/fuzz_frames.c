/* Fuzzes the framings: whatever comes, they read no byte too many, and find the same however it is cut.
 *
 * The first three bytes of an input choose the framing, its limit and the cuts; the others are the
 * stream. */

#include "../c/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes)
{
    static const char *const separators[] = {"\n", "\r\n", "a", "aab"};
    static const unsigned widths[] = {1, 2, 4, 8};
    static const size_t limits[] = {1, 5, 300, 65536, 512 * 1024 * 1024};
    if (nbytes < 3)
        return 0;
    struct reader reader = {.room = data[2] % 5};
    size_t limit = limits[data[1] % 5], choice = data[0] / 3 % 4;
    reader.kind = (enum kind)(data[0] % 3);
    reader.lines.separator = separators[choice];
    reader.lines.nseparator = strlen(separators[choice]);
    reader.lines.max_size = limit;
    reader.prefixed = (struct prefixed){widths[choice], data[0] & 64, limit};
    reader.resp.max_size = limit;
    if (!is_same_however_cut(&reader, (const char *)data + 3, nbytes - 3, data[2]))
        abort();
    return 0;
}
