/* Bytes of one direction of one HTTP/2 stream, in chunks that are DATA frames: those to be, or those that came.
 *
 * Outwards a chunk has room for a frame's header before its bytes, and with it fills exactly one TLS record: what is
 * queued goes out as it lies there. When a frame takes only a part of a chunk (a small window), the next one's header
 * overwrites bytes that have left. Inwards a frame's payload is read into a chunk, which then joins the queue. */
#ifndef ADIT_SRC_HTTP_H2_QUEUE_H
#define ADIT_SRC_HTTP_H2_QUEUE_H

#include "adit/base/obj.h"

#include <stdbool.h>
#include <sys/queue.h>
#include <sys/uio.h>

enum {
	H2_FRAME_HEADER_BYTES = 9,
	H2_RECORD_BYTES = 16384, /* the largest TLS record, and the largest frame's payload that we allow */
	H2_CHUNK_BYTES = H2_RECORD_BYTES - H2_FRAME_HEADER_BYTES,
};

struct h2_chunk {
	TAILQ_ENTRY(h2_chunk) entry;
	unsigned from, to, size; /* of bytes[] */
	char bytes[];
};
TAILQ_HEAD(h2_chunks, h2_chunk);

/* Full-size chunks that wait to be used again: allocating and touching new memory costs as much as copying. */
struct h2_spare {
	struct h2_chunks chunks;
	unsigned count;
};
void h2_spare_init(struct h2_spare *spare);
void h2_spare_trim(struct h2_spare *spare, unsigned keep);
/* One with H2_RECORD_BYTES to read into, for h2_queue_adopt or h2_chunk_drop; NULL: out of memory. */
struct h2_chunk *h2_chunk_new(struct h2_spare *spare);
void h2_chunk_drop(struct h2_chunk *c, struct h2_spare *spare);

struct h2_queue {
	struct h2_chunks chunks;
	size_t n; /* bytes */
};
void h2_queue_init(struct h2_queue *q);
void h2_queue_clear(struct h2_queue *q, struct h2_spare *spare);
/* False: out of memory, with nothing appended. */
bool h2_queue_add(struct h2_queue *q, struct h2_spare *spare, const void *data, size_t n) ADIT_MUST_USE;
/* Takes a chunk over whose first n bytes were read. */
void h2_queue_adopt(struct h2_queue *q, struct h2_chunk *c, size_t n);
/* Copies up to size bytes out and forgets them. */
size_t h2_queue_take(struct h2_queue *q, struct h2_spare *spare, void *buf, size_t size);
/* Where its bytes lie, in up to `most` pieces. */
unsigned h2_queue_pieces(const struct h2_queue *q, struct iovec *v, unsigned most);
/* The first bytes that lie together: *p, with H2_FRAME_HEADER_BYTES before them that may be written over. */
size_t h2_queue_front(struct h2_queue *q, char **p);
void h2_queue_drop(struct h2_queue *q, struct h2_spare *spare, size_t n);

#endif
