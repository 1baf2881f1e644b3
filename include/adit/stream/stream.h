/* A two-way byte stream as relay and http see it: TCP, TLS, and one in memory for tests.
 * libevent's and OpenSSL's traps stay behind this interface.
 *
 * Writing: bytes go out at once while nothing is queued; what blocks is queued. Whoever writes looks at stream_queued
 * and stops feeding (that is the back-pressure; nothing here refuses bytes). Reading: on while no pause bit is set.
 * Callbacks come from the loop, never from inside a call of this interface. */
#ifndef ADIT_STREAM_STREAM_H
#define ADIT_STREAM_STREAM_H

#include "adit/base/obj.h"
#include "adit/base/slice.h"
#include "adit/loop/loop.h"

#include <sys/types.h>
#include <sys/uio.h>

enum stream_io {
	STREAM_IO_OK, /* *n > 0 bytes */
	STREAM_IO_AGAIN, /* none now; on_readable will tell */
	STREAM_IO_EOF, /* the peer finished writing; see stream_truncated */
	STREAM_IO_ERROR, /* see stream_fault */
};

enum stream_fault {
	STREAM_FAULT_NONE,
	STREAM_FAULT_RESET, /* RST, or EPIPE */
	STREAM_FAULT_TIMEOUT, /* the kernel gave up on the peer (keepalive, user timeout) */
	STREAM_FAULT_PROTOCOL, /* TLS broken */
	STREAM_FAULT_MEMORY,
	STREAM_FAULT_OTHER,
};

/* Why reading is off: one bit per cause, reading is on when the mask is 0. */
enum stream_pause {
	STREAM_PAUSE_IDLE = 1, /* nobody wants bytes now (the state of a new stream) */
	STREAM_PAUSE_PEER_FULL = 2, /* what was read has not left yet */
	STREAM_PAUSE_EOF = 4, /* there is nothing more */
};

struct stream_handler {
	void (*on_readable)(void *ctx); /* bytes, the end or a fault can be read; only while not paused */
	void (*on_drained)(void *ctx); /* the queue is empty and there is room; after stream_finish: the FIN has left */
	void (*on_fault)(void *ctx); /* writing failed while bytes were queued; see stream_fault */
};

enum stream_close {
	STREAM_CLOSE_FLUSH, /* send what is queued, FIN (TLS: close_notify before it), discard input for a while, close */
	STREAM_CLOSE_TRUNCATE, /* the same without close_notify: the peer is to see that this is no proper end */
	STREAM_CLOSE_ABORT, /* drop everything; TCP RST */
};

enum { STREAM_HEADROOM = 16 };

struct stream;

struct stream_ops {
	enum stream_io (*read)(struct stream *s, void *buf, size_t size, size_t *n);
	unsigned (*peek)(struct stream *s, struct iovec *v, unsigned most); /* may be NULL, */
	void (*skip)(struct stream *s, size_t n); /* both */
	bool (*write)(struct stream *s, const void *data, size_t n);
	bool (*write_vec)(struct stream *s, const struct iovec *v, unsigned count); /* may be NULL */
	bool (*write_over)(struct stream *s, char *data, size_t n); /* may be NULL */
	size_t (*queued)(const struct stream *s);
	void (*finish)(struct stream *s);
	void (*watch)(struct stream *s, bool on); /* readiness events on or off */
	bool (*pending)(const struct stream *s); /* bytes wait above the descriptor: no event will tell; may be NULL */
	void (*secret)(struct stream *s, bool on); /* may be NULL */
	void (*cork)(struct stream *s, bool on); /* may be NULL */
	size_t (*room)(struct stream *s); /* may be NULL: any number of bytes */
	void (*ahead)(struct stream *s, bool on); /* may be NULL */
	unsigned (*rtt_us)(const struct stream *s); /* may be NULL */
	void (*close)(struct stream *s, enum stream_close how); /* frees in the end, calling stream_closed */
};

/* Embedded as first member by implementations; users go through the functions below. */
struct stream {
	uint32_t magic;
	const struct stream_ops *ops;
	struct loop *loop;
	const struct stream_handler *handler;
	void *ctx;
	unsigned pause; /* enum stream_pause bits */
	enum stream_fault fault;
	bool eof, truncated, finishing, closing;
	bool deaf; /* the other side takes nothing more */
	char *unread; /* bytes given back by stream_unread */
	size_t unread_n, unread_at;
	struct loop_task wake; /* on_readable from the run queue */
	loop_fn *closed;
	void *closed_ctx;
};

/* For the owner of the moment; from one owner to the next (http -> relay) by another call. */
void stream_attach(struct stream *s, const struct stream_handler *handler, void *ctx);

/* Reads up to size bytes into buf. Reads are taken until AGAIN or until the caller has had enough: then stream_more. */
enum stream_io stream_read(struct stream *s, void *buf, size_t size, size_t *n) ADIT_MUST_USE;
/* The next bytes, where they lie in memory of the stream's own, in up to `most` pieces: they can be written without a
 * copy, before anything else is asked of the stream. stream_skip takes them off. 0: none, stream_read tells more. */
unsigned stream_peek(struct stream *s, struct iovec *v, unsigned most) ADIT_MUST_USE;
void stream_skip(struct stream *s, size_t n);
/* The caller stops although bytes may be left: on_readable comes again, after others had their turn. */
void stream_more(struct stream *s);
/* Gives bytes back: they are what the next reads return. When something given back before is left, only bytes that the
 * last read took of it. False: out of memory. */
bool stream_unread(struct stream *s, const void *data, size_t n) ADIT_MUST_USE;

/* False: the stream is broken (stream_fault); nothing of it arrives in full then. */
bool stream_write(struct stream *s, const void *data, size_t n) ADIT_MUST_USE;
/* The same of several pieces, in one call of the kernel; only where stream_gathers says that there is such a call. */
bool stream_write_vec(struct stream *s, const struct iovec *v, unsigned count) ADIT_MUST_USE;
bool stream_gathers(const struct stream *s);
/* The same, of bytes that the stream may write over, and STREAM_HEADROOM before them: what it has to put between them
 * can go there, and no byte be copied. */
bool stream_write_over(struct stream *s, char *data, size_t n) ADIT_MUST_USE;
/* How much of it there should be; 0: this stream has no use for it. */
size_t stream_headroom(const struct stream *s);
/* Writes between on and off leave together, each in a record of its own where there are records. Off before returning
 * to the loop; a fault shows at the next write. */
void stream_cork(struct stream *s, bool on);
/* Writing has failed: what the other side had said before may still be read, until the fault shows there. */
void stream_read_on(struct stream *s);
size_t stream_queued(const struct stream *s);
/* How many bytes it makes sense to write now, where the other side or a budget bounds that (h2's windows); 0: none,
 * on_drained will tell. SIZE_MAX: any number. Who writes more has it queued. */
size_t stream_room(struct stream *s);
/* No more writes: FIN after what is queued (TLS: close_notify, then FIN). Reading goes on. Idempotent. */
void stream_finish(struct stream *s);

void stream_pause(struct stream *s, unsigned bits);
void stream_resume(struct stream *s, unsigned bits);

/* Plaintext copies inside libraries are wiped while on (RFC-less care for credentials). */
void stream_secret(struct stream *s, bool on);
/* Whether more may be taken from the peer at once than is asked for: cheaper for many bytes, and not for strangers. */
void stream_ahead(struct stream *s, bool on);

/* The round trip to the other side as the kernel sees it, in microseconds; 0: unknown. */
unsigned stream_rtt_us(const struct stream *s);

enum stream_fault stream_fault(const struct stream *s);
/* The end came without the peer's proper good-bye (TLS: FIN without close_notify). */
bool stream_truncated(const struct stream *s);

/* Ends it, from anywhere, also inside a callback: no callback of the handler any more. Once only. The stream frees
 * itself later from the loop. */
void stream_close(struct stream *s, enum stream_close how);
/* closed(ctx) is called from the loop at the very end, whoever closed: for the one who counts connections. */
void stream_on_closed(struct stream *s, loop_fn *closed, void *ctx);

/* --- for implementations --- */
void stream_init(struct stream *s, const struct stream_ops *ops, struct loop *loop);
void stream_notify_readable(struct stream *s);
void stream_notify_drained(struct stream *s);
void stream_notify_fault(struct stream *s, enum stream_fault fault);
/* Last act of close: calls closed, then the implementation may free itself. */
void stream_closed(struct stream *s);

#endif
