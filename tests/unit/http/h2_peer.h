/* Both ends of an HTTP/2 connection in memory: a client (nghttp2's own, or frames written by hand) and a handler that
 * does with each request what the test says. Between them, as the TLS connection, a mem_stream.
 *
 * Nothing of Criterion is in here: the fuzz target uses it, too. What does not hold aborts. */
#ifndef ADIT_TESTS_H2_PEER_H
#define ADIT_TESTS_H2_PEER_H

#include "adit/http/h2.h"
#include "component/mem_stream.h"

#include <nghttp2/nghttp2.h>

enum { PEER_STREAMS = 640, PEER_JOBS = 1200, PEER_BUFFER_BYTES = 64 * 1024 };

/* What the client has seen of one stream, and what it still has to send on it. */
struct peer_stream {
	int32_t id;
	int status; /* of the final response; 0: none yet */
	unsigned heads, interims, trailers; /* field sections */
	char fields[16384]; /* "name: value\n" of all of them */
	size_t fields_n;
	char *data;
	size_t n;
	bool ended; /* END_STREAM */
	bool closed, reset;
	uint32_t error; /* closed: by which */
	char *up;
	size_t up_n, up_at;
	bool up_ends;
	size_t checked; /* of data: the fuzz target's */
};

/* The handler's object: one request. */
struct peer_job {
	int32_t id; /* 0: what the connection as a whole has done */
	struct request *r; /* NULL: done with */
	struct stream *s;
	enum reason fault;
	unsigned answered, gone;
	enum reason why;
	char method[16], target[300], credentials[64];
	bool reads; /* takes what comes, at once */
	bool chokes; /* ... and then takes nothing more until job_swallow */
	bool held_back; /* PEER_FULL, as it happens when a target is slow */
	bool echoes;
	char *in;
	size_t in_n;
	size_t checked; /* of these: the fuzz target's */
	bool eof, finished, broken;
	enum stream_fault stream_fault;
	bool carries; /* has a stream, or had one, and no other answer */
	bool flushed; /* closed as what has come to its end */
	unsigned drained;
	size_t supply; /* pattern bytes that it still has for the client */
	size_t supplied;
	size_t piece; /* ... at most so many in one write; 0: as many as a relay */
	bool supply_ends;
	char trailers[128]; /* of the request, once its end was read */
};

struct peer {
	struct loop *loop;
	struct conf *conf;
	struct mem_stream *m;
	struct client client;
	struct h2 *h;
	bool closed;
	char buffer[PEER_BUFFER_BYTES];
	size_t taken; /* of m->out, by the client */

	/* the client */
	nghttp2_session *session;
	struct peer_stream *streams[PEER_STREAMS]; /* by id / 2 */
	bool goaway;
	uint32_t goaway_error;
	int32_t goaway_last;
	unsigned goaways, pings, ping_acks, settings;
	bool client_failed; /* nghttp2 does not like what it got */

	/* the handler */
	struct peer_job jobs[PEER_JOBS];
	unsigned count;
	void (*on_begin)(struct peer_job *job); /* NULL: waits for what the test says */
	bool reads, echoes; /* what new jobs do with their bytes */
	bool login; /* a begun request logs its client in */

	void (*watch)(bool on); /* around everything the server does */
};
extern struct peer peer;

/* --- the connection --- */

/* Options on top of the defaults. */
void peer_open(const struct conf_option *options, size_t n);
/* With what peer_open left: the connection. False: h2_start was out of memory. */
bool peer_start(void);
/* Ends what is left and sees to it that nothing is. */
void peer_stop(void);
void peer_close(void);

/* A client of nghttp2's, with its preface and SETTINGS; `windows`: it opens its windows as it gets data. */
void peer_hello(bool windows);
void peer_hello_settings(bool windows, const nghttp2_settings_entry *settings, size_t n);
/* Until nothing moves any more. */
void peer_run(void);
/* One exchange of bytes each way. */
bool peer_step(void);

/* --- the client --- */

struct peer_stream *peer_at(int32_t id);
int32_t peer_connect(const char *authority, const char *credentials);
/* `fields`: "name: value\n" each, may be NULL. */
int32_t peer_request(const char *method, const char *scheme, const char *authority, const char *path, const char *fields,
	bool ends);
void peer_send(int32_t id, const void *data, size_t n, bool ends);
void peer_send_text(int32_t id, const char *text, bool ends);
void peer_send_pattern(int32_t id, size_t n, bool ends);
void peer_reset(int32_t id, uint32_t error);
bool peer_has_field(int32_t id, const char *line);

char peer_pattern(size_t at);
bool peer_is_pattern(const char *p, size_t n, size_t from);

/* --- frames by hand --- */

struct frames {
	char bytes[256 * 1024];
	size_t n;
};

void put_preface(struct frames *f);
void put_frame(struct frames *f, uint8_t type, uint8_t flags, uint32_t id, const void *payload, size_t n);
void put_settings(struct frames *f, uint16_t key, uint32_t value); /* key 0: none */
void put_u32_frame(struct frames *f, uint8_t type, uint32_t id, uint32_t value); /* RST_STREAM, WINDOW_UPDATE */
/* A field section without any table and without Huffman: "name: value\n" each. Bytes. */
size_t put_fields(char *to, size_t size, const char *fields);
void put_headers(struct frames *f, uint32_t id, const char *fields, uint8_t flags);
void put_connect(struct frames *f, uint32_t id, const char *authority, bool ends);
void peer_feed(const struct frames *f);

/* What the server has sent. */
struct frame {
	uint8_t type, flags;
	uint32_t id;
	const uint8_t *payload;
	size_t n;
};
/* What has come so far is not looked at again: for many bytes. */
void peer_forget(void);
bool next_frame(size_t *at, struct frame *out);
/* How many of a type came on a stream (id -1: on any). */
unsigned frames_of(uint8_t type, int64_t id);
/* The first one's value: RST_STREAM's error. ~0: none. */
uint32_t reset_of(uint32_t id);
bool goaway_of(uint32_t *error);

/* --- the handler --- */

struct peer_job *job_at(unsigned i);
void job_accept(struct peer_job *job);
void job_refuse(struct peer_job *job, enum reason reason);
void job_local(struct peer_job *job);
void job_exchange(struct peer_job *job);
bool job_reply(struct peer_job *job, int status, const char *fields, struct framing framing);
void job_write(struct peer_job *job, const void *data, size_t n);
void job_supply(struct peer_job *job, size_t n, bool ends);
void job_finish(struct peer_job *job);
void job_swallow(struct peer_job *job);
void job_close(struct peer_job *job, enum stream_close how);

#endif
