/* Who may connect: counted over all workers, before a byte of TLS is spent. */
#ifndef ADIT_SRC_SERVER_LIMITS_H
#define ADIT_SRC_SERVER_LIMITS_H

#include "adit/base/reason.h"
#include "adit/conf/conf.h"

struct limits;

struct limits *limits_new(void) ADIT_MUST_USE;
void limits_free(struct limits *l);

/* REASON_OK: counted until limits_leave. Else the limit that was reached; nothing is counted. Any thread. */
enum reason limits_enter(struct limits *l, const struct conf *conf, const struct addr *client) ADIT_MUST_USE;
/* The first login on the connection: it is no stranger any more. */
void limits_authenticated(struct limits *l, const struct addr *client);
void limits_leave(struct limits *l, const struct addr *client, bool authenticated);

/* A connection that began at began_ms (clock_mono_ms) has agreed on HTTP/2, and has gone without a request. */
void limits_unused_http2(struct limits *l, const struct addr *client, uint64_t began_ms);
/* The client's network has just done so again and again: it may fare better with HTTP/1.1. */
bool limits_doubts_http2(struct limits *l, const struct addr *client) ADIT_MUST_USE;

#endif
