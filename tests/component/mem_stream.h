/* A stream in memory whose far end is the test: it feeds bytes, ends and faults, decides how many bytes are taken, and
 * sees everything that was done. Callbacks come from the loop, as with every stream. */
#ifndef ADIT_TESTS_MEM_STREAM_H
#define ADIT_TESTS_MEM_STREAM_H

#include "adit/stream/stream.h"

struct mem_stream {
	struct stream base;

	/* The test's to set at any time. */
	size_t window; /* bytes that leave without being queued; mem_drain lets queued ones go */
	size_t read_max; /* one read gives at most so many; 0: as many as there are */
	size_t piece; /* what was fed lies in pieces of so many bytes that stream_peek shows; 0: it shows nothing */
	bool above; /* input lies above the descriptor: announced when it is fed, later only by `pending` */
	bool refuse; /* the next writes fail (fault RESET) */
	unsigned rtt_us; /* what stream_rtt_us says */

	/* What was seen. */
	char *out; /* everything that has left */
	size_t out_n;
	size_t queued_most;
	bool fin; /* has left, after out_n bytes */
	unsigned fin_order; /* of all FINs in the process: 1 is the first */
	bool secret;
	bool closed; /* stream_close was called ... */
	enum stream_close how;
	bool gone; /* ... and has come to its end: the test may free it */
	unsigned reads;

	/* inside */
	char *in, *queue;
	size_t in_at, in_n, queue_n; /* in: from in_at on */
	bool in_eof, in_truncated, watching, finish_wanted, buried;
	enum stream_fault in_fault;
	struct loop_task readable, drained, fault;
	enum stream_fault fault_to_tell;
	struct loop_grave grave;
};

struct mem_stream *mem_stream_new(struct loop *loop); /* aborts when out of memory */
void mem_stream_free(struct mem_stream *m); /* only when gone */

/* From the far end. */
void mem_feed(struct mem_stream *m, const void *data, size_t n);
void mem_feed_text(struct mem_stream *m, const char *text);
void mem_feed_eof(struct mem_stream *m, bool truncated);
void mem_feed_fault(struct mem_stream *m, enum stream_fault fault); /* read after what was fed before */
void mem_break(struct mem_stream *m, enum stream_fault fault); /* told by on_fault, at once */
void mem_drain(struct mem_stream *m, size_t n); /* SIZE_MAX: all */

#endif
