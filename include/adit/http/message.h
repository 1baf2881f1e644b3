/* One HTTP/1 message each way over a stream of bytes (the "wire"), seen as a stream of bodies: what is read of it is
 * the body that comes in, up to its end; what is written is the body that goes out; stream_finish ends that body and
 * leaves the wire open. The same object towards clients (request in, response out) and towards targets (the other way
 * round), so that one relay joins both.
 *
 * The wire stays its maker's: while the message lives it is the message that is attached to it, and afterwards it can
 * carry the next one. */
#ifndef ADIT_HTTP_MESSAGE_H
#define ADIT_HTTP_MESSAGE_H

#include "adit/http/body.h"
#include "adit/http/forward.h"
#include "adit/stream/stream.h"

/* Told from inside the message's own calls; nothing of the message is to be called back. Each may be NULL. */
struct message_events {
	/* A response's head, interim ones too. Before it returns for a final one, what it says is to be passed on: the
	 * body's bytes follow. False: no more is read, the stream is broken. */
	bool (*head)(void *ctx, const struct response_head *head);
	/* The body that comes in has come to its end; `trailers`: field lines as received, for the length of the call.
	 * False: out of memory. */
	bool (*ended)(void *ctx, struct slice trailers);
	/* The stream is broken for `why`, which a stream's faults have no word for: BAD_CHUNK, CLIENT_GONE,
	 * RESPONSE_INVALID, RESPONSE_TOO_LARGE, RESPONSE_INCOMPLETE, NO_MEMORY. */
	void (*broken)(void *ctx, enum reason why);
	/* Field lines to be sent behind the body that goes out, when it is chunked. */
	struct slice (*trailers)(void *ctx);
	/* stream_close was called: nobody is attached to the wire, it is paused, and its maker's again. */
	void (*closed)(void *ctx, enum stream_close how);
};

/* NULL: out of memory. Nothing is read or written before it is said what comes. */
struct stream *message_new(struct loop *loop, struct stream *wire, size_t head_bytes,
	const struct message_events *events, void *ctx) ADIT_MUST_USE;

/* A request's body comes in. Behind its end (or before it, with `hold`: until message_switch or message_release) the
 * wire is listened to for the client's leaving; bytes of a next request are given back to it. head_bytes bounds the
 * trailers. */
void message_read_request(struct stream *s, struct framing framing, bool hold);
/* Response heads come in, then a body; head_bytes bounds each of the heads and the trailers. */
void message_read_response(struct stream *s, enum head_method method, const struct head_limits *limits);
/* The head goes out. A failure shows as the stream's fault. */
void message_send_head(struct stream *s, struct slice head);
/* A body goes out. */
void message_write(struct stream *s, struct framing framing);
/* 101: from here on bytes as they are, both ways; stream_finish is the wire's. */
void message_switch(struct stream *s);
/* No 101: the end of the request's body, which was held back, is to be read. */
void message_release(struct stream *s);

/* All of the message that comes in has been taken from the wire. */
bool message_is_read(const struct stream *s);
/* The message that goes out is complete and has left. */
bool message_is_written(const struct stream *s);
/* At least a byte of it has come in. */
bool message_has_begun(const struct stream *s);
/* Bytes came behind the message that comes in. */
bool message_has_more(const struct stream *s);

#endif
