/* Where one TLS record ends and the next begins in bytes that are relayed (RFC 8446 5.1), without looking inside.
 *
 * Why: a client with TLS inside the TLS to the proxy may lose sight of bytes. GnuTLS (git and apt on Debian) takes a
 * whole outer record from the socket and reads one inner record of it; then its user waits for the socket, which is
 * silent when the other inner records have come in the same outer one, and hangs until its time-out. As long as
 * something is left in the socket it goes on reading. So the last inner record of what is written at once begins an
 * outer record of its own. */
#ifndef ADIT_SRC_TUNNEL_INNER_H
#define ADIT_SRC_TUNNEL_INNER_H

#include <stdbool.h>
#include <stddef.h>

enum { INNER_HEADER_BYTES = 5 };

/* Zeroed: at the beginning of a stream. */
struct inner {
	size_t body_left; /* of the record at hand */
	unsigned char header[INNER_HEADER_BYTES]; /* of the next one, as far as it has come */
	size_t header_n;
	bool over; /* this is no TLS */
};

/* Follows n more bytes of the stream. Where among them the last inner record begins that is complete with them; 0: at
 * their beginning or before, or there is none. */
size_t inner_last(struct inner *in, const char *p, size_t n);

#endif
