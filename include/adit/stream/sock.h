/* A connected socket under a stream: our own read event (reads of any size, straight into the caller's buffer), direct
 * sends, and a bufferevent that exists only once a send left something to queue.
 *
 * Why not the bufferevent's reads: evbuffer_read takes 4 KiB a turn after an FIONREAD, and a pause leaves watermarks
 * spinning. Why not its writes alone: a byte queued costs an allocation and an epoll_ctl. Why not from the start: an
 * idle tunnel would hold 2.4 KB for two queues that stay empty. */
#ifndef ADIT_STREAM_SOCK_H
#define ADIT_STREAM_SOCK_H

#include "adit/stream/stream.h"

#include <event2/event_struct.h>

struct bufferevent;

struct sock_callbacks {
	void (*readable)(void *ctx);
	void (*drained)(void *ctx); /* queue empty; FIN sent if asked for */
	void (*fault)(void *ctx, enum stream_fault fault);
	void (*closed)(void *ctx); /* after sock_close */
};

struct sock {
	struct loop *loop;
	int fd;
	struct bufferevent *bev; /* NULL until a send blocked */
	struct loop_task settled; /* tells of an empty queue, or of deafness, from the run queue */
	struct loop_task news; /* of the queue: empty, or it cannot be sent */
	int error; /* why it cannot */
	struct event read_event;
	bool armed; /* the read event is in epoll */
	bool wanted; /* and its news are wanted; taken out of epoll only when it fires unwanted */
	bool deaf; /* no memory for the read event */
	bool finish_wanted, finished, discarding, closing, ended, faulted;
	size_t discarded;
	struct deadline linger;
	struct loop_grave grave;
	const struct sock_callbacks *callbacks;
	void *ctx;
};

/* Takes over fd (connected, non-blocking) on success; false: out of memory, fd stays the caller's. */
bool sock_init(struct sock *k, struct loop *loop, int fd, const struct sock_callbacks *callbacks,
	void *ctx) ADIT_MUST_USE;

enum stream_io sock_read(struct sock *k, void *buf, size_t size, size_t *n, enum stream_fault *fault);
/* Sends at once what the kernel takes, queues the rest. */
bool sock_write(struct sock *k, const void *data, size_t n, enum stream_fault *fault);
bool sock_write_vec(struct sock *k, const struct iovec *v, unsigned count, enum stream_fault *fault);
unsigned sock_rtt_us(const struct sock *k); /* TCP_INFO's; 0: unknown */
size_t sock_queued(const struct sock *k);
void sock_finish(struct sock *k); /* SHUT_WR after the queue */
void sock_watch(struct sock *k, bool on);

/* FLUSH: the queue, FIN, then input is discarded undecrypted until the peer's end, linger_ms or 64 KiB (a close with
 * unread input would become a RST that takes the last answer with it). `peer_ended`: nothing to discard. ABORT: RST.
 * Ends with callbacks->closed from the loop; the socket is closed then and the sock may be freed. */
void sock_close(struct sock *k, enum stream_close how, bool peer_ended, unsigned linger_ms);

enum stream_fault sock_fault_of(int error);

#endif
