/* Where one TLS record ends and the next begins in bytes that are relayed (RFC 8446 5.1), without looking inside.
 *
 * Why: a GnuTLS client (curl, git and apt as Debian builds them) that speaks TLS inside the TLS to the proxy takes a whole
 * outer record from the socket, reads one inner record of it, and goes back to poll(2) when that one brought no data,
 * as a session ticket does. What else lay in the outer record is inside GnuTLS, no descriptor tells of it, and the client
 * hangs until its time-out. So the first inner records each travel in an outer record of their own. */
#ifndef ADIT_SRC_TUNNEL_INNER_H
#define ADIT_SRC_TUNNEL_INNER_H

#include <stdbool.h>
#include <stddef.h>

/* Tickets come with the first answers. After so many bytes records are passed on as they come, at full speed. */
enum { INNER_BYTES = 64 * 1024, INNER_HEADER = 5 };

struct inner {
	size_t seen;
	size_t body_left; /* of the record at hand */
	unsigned char header[INNER_HEADER]; /* of the next one, as far as it has come */
	size_t header_n;
	bool over; /* no TLS, or enough of it */
};

/* How many of the n bytes at p go into one write: up to the end of the inner record at hand, or all n. At least 1. */
size_t inner_next(struct inner *in, const char *p, size_t n);

#endif
