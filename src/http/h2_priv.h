/* A connection and its streams, as h2.c, h2_stream.c and h2_session.c share them.
 *
 *   h2.c          the life: reading, flushing, deadlines, drain, the end
 *   h2_session.c  what nghttp2 calls: frames become facts about streams
 *   h2_stream.c   one stream: its life, its struct stream
 *   h2_request.c  ... its request and the answers
 *   h2_window.c   ... how much it may send, and how much be sent
 *
 * nghttp2's callbacks change state and put streams on the list of news; h2_tell walks it when nghttp2 is not on the
 * stack. So no handler and no relay ever runs inside nghttp2. */
#ifndef ADIT_SRC_HTTP_H2_PRIV_H
#define ADIT_SRC_HTTP_H2_PRIV_H

#include "adit/base/mem.h"
#include "adit/http/h2.h"
#include "adit/log/stats.h"
#include "http/h2_guard.h"
#include "http/h2_head.h"
#include "http/h2_queue.h"

#include <nghttp2/nghttp2.h>

enum {
	H2_TURN_BYTES = 256 * 1024, /* sent in one turn */
	H2_OUT_MAX = 1024 * 1024, /* queued towards the client, all streams together */
	H2_LARGE_BYTES = 4096, /* DATA frames of that size are worth a read of their own */
	H2_FRAMES_MAX = 512, /* control frames that wait for a client who does not read; then nothing is read from him */
	H2_STRANGER_BYTES = 256 * 1024, /* what a connection without a login may have us keep: heads, and as much of DATA */
	H2_HEAD_ROOM = 1024, /* so much of a body may come with the head of a reply, window or not */
	H2_SHARE_MIN = 16 * 1024, /* of it for one stream, when there are many */
};

/* In which frame, and where. */
struct h2_place {
	unsigned char header[H2_FRAME_HEADER_BYTES];
	unsigned header_n; /* bytes of it that have come */
	size_t left; /* bytes behind it that have not: when there are none, a header comes next */
	bool large; /* they are the payload of a DATA frame that is worth a read of its own */
};

struct h2_stream {
	struct stream base; /* the tunnel's or exchange's client side, while `live` */
	uint32_t magic;
	struct h2 *h;
	int32_t id;
	TAILQ_ENTRY(h2_stream) entry; /* of the connection */
	TAILQ_ENTRY(h2_stream) news_entry, lent_entry, hungry_entry;
	bool has_news, is_lent, is_hungry;

	struct request request;
	struct h2_head head, tail; /* the field sections: of the request, of its trailers */
	struct h2_text text; /* the head as HTTP/1.1 has it; wiped when the credentials were looked at */
	void *object; /* the handler's */
	enum reason fault; /* why it was reset by us, for the record */

	bool open; /* nghttp2 knows it */
	bool fresh; /* its request has come and was not begun */
	bool held; /* the handler has the request */
	bool live; /* and the stream */
	bool replied; /* response HEADERS are submitted */
	bool client_ended; /* END_STREAM has come */
	bool lossy; /* DATA was dropped; its RST_STREAM is on its way */
	bool end_wanted, end_sent; /* ours */
	bool in_trailers; /* the second field section has begun */
	bool connect, body; /* what the request is: CONNECT; DATA was to follow */
	bool broken; /* RST_STREAM came or went */
	bool drained; /* news: the queue ran empty */
	bool buried;
	bool dying; /* reset by either side */
	uint32_t last_error; /* what RST_STREAM will say behind the queued bytes; 0: none */
	struct deadline linger;
	unsigned long long linger_until_ms; /* at most */
	struct deadline probe; /* when the next of the bytes that are kept back may go */
	unsigned probe_ms;
	bool probing; /* it may go now */
	bool withheld; /* bytes wait for that, or for a larger window */
	long long window_seen; /* the largest that the client has opened */
	char *trailers; /* request.trailers' memory */
	char *reply_trailers; /* a copy, once the reply's end was said; NULL with a length: there was no memory */
	size_t reply_trailers_n;

	struct h2_queue in, out;
	char *direct; /* what is being written and was not queued; frames' headers are put before it */
	size_t direct_n;
	size_t lent; /* bytes given to the reader that have not left yet */
	size_t held_bytes;
	size_t heads; /* bytes of a target's heads that have not left yet */
	size_t window; /* that we advertise */
	size_t epoch_bytes; /* credited since epoch_ms */
	unsigned long long epoch_ms;
	struct loop_grave grave;
};

TAILQ_HEAD(h2_streams, h2_stream);

struct h2 {
	uint32_t magic;
	struct loop *loop;
	struct stream *stream;
	const struct client *client;
	struct conf *conf;
	struct http_handler handler;
	void *handler_ctx;
	char *buffer;
	size_t buffer_bytes;
	nghttp2_session *session;
	TAILQ_HEAD(h2_blocks, h2_block) blocks; /* nghttp2's memory */
	struct h2_streams streams, news, lent, hungry;
	unsigned count, hungry_count; /* streams */
	unsigned dying; /* of these: reset, and gone within this turn */
	struct loop_task flush, leave;
	size_t heard_bytes; /* until then */
	bool heard; /* the preface: we may speak */
	bool used; /* there was a stream */
	bool inside; /* nghttp2 is on the stack */
	bool session_failed; /* nghttp2 is out of memory: no more calls */
	bool ending; /* no more reading; closes when everything is flushed and no stream is left */
	bool closed; /* the stream below is closed */
	int32_t head_id; /* whose field section has begun and is not complete; 0: none */
	bool faulty; /* nghttp2 has found the connection at fault and sent its GOAWAY */
	bool draining, said_last;
	bool ping_sent, rtt_asked;
	enum stream_close how;
	struct h2_chunk *landing; /* where a DATA frame's payload is read to, before it is known whether it is wanted */
	struct h2_place at; /* where the next byte will lie */
	bool bare; /* what is read next is payload: no credentials in it */
	struct h2_stream *sending; /* whose DATA frame lies at out_p */
	const char *out_p;
	size_t out_n;
	size_t out_total, in_total; /* queued in all streams */
	size_t held_bytes; /* of requests' heads that wait for an answer */
	size_t heads_total; /* of targets' heads that have not left */
	size_t windows; /* sum of what streams advertise */
	unsigned streams_max;
	unsigned rtt_ms; /* seen between SETTINGS or PING and its acknowledgement */
	unsigned long long started_ms, heard_ms, asked_ms;
	struct deadline head, idle;
	struct h2_guard guard;
	bool abuse;
	struct request refused; /* what stands for the connection when it is put on record */
	struct h2_spare spare;
};

/* --- h2.c --- */
void h2_post_flush(struct h2 *h);
/* Sends what is queued now; tells nobody and ends nothing, for a writer is on the stack. */
void h2_write_through(struct h2 *h);
/* The end of it: what is under way gets `reason`; the connection closes when nothing is left. Not inside nghttp2. */
void h2_end(struct h2 *h, enum reason reason, enum stream_close how);
void h2_spend(struct h2 *h, enum h2_cost cost);
void h2_news(struct h2_stream *s);
/* A stream has gone: maybe it was the last that the end waited for. */
void h2_settle(struct h2 *h);

/* --- h2_session.c --- */
bool h2_session_make(struct h2 *h);
void h2_session_drop(struct h2 *h); /* also when it was not made */

/* --- h2_stream.c --- */
struct h2_stream *h2_stream_new(struct h2 *h, int32_t id);
struct h2_stream *h2_stream_of(const struct stream *base);
/* Tells handler and relay what has happened. */
void h2_stream_tell(struct h2_stream *s);
/* The connection is no more, or the client has thrown the stream away. */
void h2_stream_gone(struct h2_stream *s, enum reason reason);
/* Room for those who wait for it. */
void h2_stream_feed(struct h2 *h);
/* Its DATA, as nghttp2 asks for it. */
ssize_t h2_stream_data(nghttp2_session *session, int32_t id, uint8_t *buf, size_t most, uint32_t *flags,
	nghttp2_data_source *source, void *ctx);
/* The bytes of its next DATA frame: *p, with room for the header before them. */
size_t h2_stream_front(struct h2_stream *s, char **p);
/* The frame that nghttp2 has made of it was written. */
void h2_stream_sent(struct h2_stream *s, size_t n);
void h2_stream_heads_sent(struct h2_stream *s);
bool h2_stream_add_out(struct h2_stream *s, const void *data, size_t n);
void h2_stream_drop_in(struct h2_stream *s);
/* There is something to send again. */
void h2_stream_resume(struct h2_stream *s);
/* It carries a tunnel or an exchange from here on. */
struct stream *h2_stream_carry(struct h2_stream *s);
/* The request has its answer. */
void h2_stream_unhold(struct h2_stream *s);
/* What is queued has so long to leave. */
void h2_stream_linger(struct h2_stream *s);
/* RST_STREAM behind it, if nghttp2 still knows it. */
void h2_stream_detach(struct h2_stream *s, uint32_t error);
/* No more news of it from nghttp2. */
void h2_stream_let_go(struct h2_stream *s);
void h2_stream_dies(struct h2_stream *s); /* counts it as one that will soon be gone */
/* Its grave, when nobody knows it any more: not nghttp2, not the handler. */
void h2_stream_settle(struct h2_stream *s);

/* --- h2_request.c --- */
void h2_request_begin(struct h2_stream *s);
/* Those of the trailers' fields that may pass. */
void h2_request_trailers(struct h2_stream *s);

/* --- h2_window.c --- */
/* Bytes that have left for the target give the client room for as many. */
void h2_window_credit(struct h2_stream *s);
size_t h2_window_room(struct stream *base); /* stream_ops' */
/* How many of n bytes may go now. */
size_t h2_window_allows(struct h2_stream *s, size_t n);
void h2_window_probe(void *stream); /* its deadline has passed */

#endif
