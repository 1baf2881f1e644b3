/* Socket addresses, prefixes and CIDRs. IPv4-mapped IPv6 addresses are turned into IPv4 on the way in, so
 * that one address has one form. */
#ifndef ADIT_BASE_ADDR_H
#define ADIT_BASE_ADDR_H

#include "adit/base/slice.h"
#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

struct addr {
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	};
	socklen_t len; /* 0: no address */
};

enum { ADDR_TEXT_SIZE = INET6_ADDRSTRLEN + 8 }; /* "[v6]:65535" and NUL */

/* From the kernel's form; maps ::ffff:a.b.c.d to a.b.c.d. False for other families. */
bool addr_from_sockaddr(struct addr *out, const struct sockaddr *sa, socklen_t len);
/* An IPv4 or IPv6 literal without brackets, zone or port. IPv4: canonical dotted quad only (no leading zeros). */
bool addr_from_literal(struct addr *out, struct slice text, uint16_t port);
/* "127.0.0.1:8443", "[::1]:8443", "[::]:0" as written in a configuration. False when it is not one. */
bool addr_parse(struct addr *out, struct slice text);

uint16_t addr_port(const struct addr *a);
void addr_set_port(struct addr *a, uint16_t port);
bool addr_equal(const struct addr *a, const struct addr *b); /* with port */
bool addr_same_host(const struct addr *a, const struct addr *b); /* without port */
/* As addresses to listen on, does one take connections meant for the other? Equal, or a wildcard beside the same port
 * ([::] takes IPv4 as well). Port 0 overlaps nothing. */
bool addr_overlaps(const struct addr *a, const struct addr *b);

/* "1.2.3.4:80" / "[2001:db8::1]:80", "-" for no address; returns buf. */
const char *addr_text(const struct addr *a, char buf[static ADDR_TEXT_SIZE]);
/* Without port and brackets; returns buf. */
const char *addr_host_text(const struct addr *a, char buf[static ADDR_TEXT_SIZE]);

/* The 16 bytes of the IPv6 form (::ffff:0:0/96 for IPv4). */
void addr_bytes(const struct addr *a, uint8_t out[static 16]);

/* A block of addresses. `bits` counts in the IPv6 form: 10.0.0.0/8 is stored with bits = 104. A block is of IPv4 when
 * it lies within ::ffff:0:0/96, else of IPv6 alone: "::/0" has no IPv4 address in it. */
struct cidr {
	uint8_t bytes[16];
	uint8_t bits;
};

/* "10.0.0.0/8", "fc00::/7", "192.0.2.1" (a single address). Host bits must be zero: *host_bits is set when they
 * are not (and false is returned), so that the message can say so. host_bits may be NULL. */
bool cidr_parse(struct cidr *out, struct slice text, bool *host_bits);
bool cidr_contains(const struct cidr *c, const struct addr *a);
bool cidr_within(const struct cidr *inner, const struct cidr *outer);
/* "10.0.0.0/8"; returns buf. */
const char *cidr_text(const struct cidr *c, char buf[static ADDR_TEXT_SIZE]);

/* The client's prefix for limits: the address masked to v4_bits (IPv4: 32 or 24) or v6_bits (IPv6: 64 or 48). */
struct cidr addr_prefix(const struct addr *a, unsigned v4_bits, unsigned v6_bits);

#endif
