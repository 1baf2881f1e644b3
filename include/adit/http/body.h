/* Where a message's body ends (RFC 9112 6 and 7.1), read and written. Pure: bytes in, bytes out; the one allocation is
 * the trailer section's. */
#ifndef ADIT_HTTP_BODY_H
#define ADIT_HTTP_BODY_H

#include "adit/base/obj.h"
#include "adit/base/reason.h"
#include "adit/base/slice.h"
#include <stdbool.h>

enum framing_kind {
	FRAMING_NONE, /* there is no body */
	FRAMING_LENGTH, /* Content-Length; `length` bytes, 0 included */
	FRAMING_CHUNKED, /* Transfer-Encoding: chunked */
	FRAMING_CLOSE, /* all until the connection ends: responses, and everything behind a 101 */
};

struct framing {
	enum framing_kind kind;
	unsigned long long length; /* FRAMING_LENGTH */
};

enum body_status {
	BODY_GOES_ON, /* all of the input was taken, and the message is not over */
	BODY_DONE, /* the message is over; what is left of the input belongs to what follows it */
	BODY_BAD, /* it is not well-formed; nothing after it can be trusted */
};

struct body_reader {
	struct framing framing;
	unsigned long long left; /* of the length, or of the chunk at hand */
	int state; /* body.c's */
	bool after_cr;
	enum reason why; /* REASON_OK, or what is wrong */
	size_t line; /* bytes of the line at hand: chunk sizes with their extensions are bounded */
	char *trailers; /* field lines with their CRLFs, checked; freed by body_reader_fini */
	size_t trailers_n, trailers_size, trailers_max;
};

/* Trailer sections above trailers_max bytes are BAD. */
void body_reader_init(struct body_reader *b, struct framing framing, size_t trailers_max);
void body_reader_fini(struct body_reader *b);

/* Takes buf[0..n), in any cut. The body's bytes among them are moved together to the beginning of buf: *data of them.
 * BODY_DONE: what follows the message begins at buf + *rest (*rest == n: nothing does).
 * BODY_BAD: *why is BAD_CHUNK (a response's reader says RESPONSE_INVALID for it) or NO_MEMORY; *data bytes are still
 * good. DONE and BAD stay: a further call takes nothing and answers the same.
 * Strict: sizes are hexadecimal digits only, at most 16, lines end in CRLF, extensions are skipped and bounded, trailer
 * fields are as strict as a head's. FRAMING_CLOSE is never DONE here: body_end decides. */
enum body_status body_decode(struct body_reader *b, char *buf, size_t n, size_t *data, size_t *rest,
			     enum reason *why) ADIT_MUST_USE;
/* The connection has ended: BODY_DONE for FRAMING_CLOSE (and what was done before), else the message is cut: BAD. */
enum body_status body_end(const struct body_reader *b) ADIT_MUST_USE;
/* After BODY_DONE: the trailer fields, empty when there are none. Lives as long as the reader. */
struct slice body_trailers(const struct body_reader *b);

struct body_writer {
	struct framing framing;
	unsigned long long left; /* FRAMING_LENGTH: still to come */
};

void body_writer_init(struct body_writer *b, struct framing framing);
/* What goes before n > 0 bytes of body, and behind them; both may be empty. False: more bytes than were announced. */
enum { BODY_PREFIX_MAX = 20 };
bool body_encode(struct body_writer *b, size_t n, char prefix[static BODY_PREFIX_MAX], size_t *prefix_n,
		 struct slice *suffix) ADIT_MUST_USE;
/* Nothing more comes. False: less than was announced, the message is cut and must be seen to be. What ends the body is
 * `last`, then trailers (chunked only), then `behind`. */
bool body_finish(const struct body_writer *b, struct slice *last, struct slice *behind) ADIT_MUST_USE;

#endif
