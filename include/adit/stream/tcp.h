/* A stream over a plain TCP socket: the target's side of a tunnel. */
#ifndef ADIT_STREAM_TCP_H
#define ADIT_STREAM_TCP_H

#include "adit/stream/stream.h"

/* Takes over fd on success; NULL: out of memory, fd stays the caller's. */
struct stream *tcp_stream_new(struct loop *loop, int fd, unsigned linger_ms) ADIT_MUST_USE;

#endif
