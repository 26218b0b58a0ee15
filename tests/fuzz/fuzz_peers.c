/* Fuzzes the texts of peers' addresses: whatever the kernel may fill in, the text fits, and reads back as
 * what it was made of.
 *
 * The first byte of an input chooses the family, the others are what lies behind it. */

#include "../../evio_ext/core/evio.h"
#include "../../evio_ext/core/net.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes);

static void expect(bool holds)
{
    if (!holds)
        abort();
}

/* Cuts the port from the end of a text, which is to be as it is printed. */
static void expect_port(char *text, in_port_t port)
{
    char *colon = strrchr(text, ':'), again[8];
    expect(colon != NULL);
    snprintf(again, sizeof again, "%u", (unsigned)ntohs(port));
    expect(strcmp(colon + 1, again) == 0);
    *colon = '\0';
}

static void expect_zone(const char *zone, uint32_t scope)
{
    unsigned index = if_nametoindex(zone);
    expect((index != 0 ? index : strtoul(zone, NULL, 10)) == scope);
}

static void expect_v6(char *text, const struct sockaddr_in6 *v6)
{
    struct in6_addr again;
    size_t length = strlen(text);
    expect(length > 2 && text[0] == '[' && text[length - 1] == ']');
    text[length - 1] = '\0';
    char *zone = strchr(text, '%');
    expect((zone != NULL) == (v6->sin6_scope_id != 0));
    if (zone != NULL) {
        expect_zone(zone + 1, v6->sin6_scope_id);
        *zone = '\0';
    }
    expect(inet_pton(AF_INET6, text + 1, &again) == 1);
    expect(memcmp(&again, &v6->sin6_addr, sizeof again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes)
{
    static const sa_family_t families[] = {AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC};
    struct evio_peer peer = {.nbytes = sizeof peer.address};
    struct in_addr again;
    if (nbytes == 0)
        return 0;
    nbytes = nbytes - 1 < sizeof peer.address ? nbytes - 1 : sizeof peer.address;
    memcpy(&peer.address, data + 1, nbytes);
    peer.address.ss_family = families[data[0] % 4];
    char *text =
        malloc(EVIO_PEER_TEXT); /* of its exact size, so that a sanitizer sees a byte too many */
    expect(text != NULL);
    memset(text, 'x', EVIO_PEER_TEXT);
    evio_peer_text(&peer, text);
    expect(memchr(text, '\0', EVIO_PEER_TEXT) != NULL);
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&peer.address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&peer.address;
    if (peer.address.ss_family == AF_INET) {
        expect_port(text, v4->sin_port);
        expect(inet_pton(AF_INET, text, &again) == 1);
        expect(again.s_addr == v4->sin_addr.s_addr);
    } else if (peer.address.ss_family != AF_INET6) {
        expect(text[0] == '\0');
    } else {
        expect_port(text, v6->sin6_port);
        if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
            expect(inet_pton(AF_INET, text, &again) == 1);
            expect(memcmp(&again, v6->sin6_addr.s6_addr + 12, sizeof again) == 0);
        } else {
            expect_v6(text, v6);
        }
    }
    free(text);
    return 0;
}
