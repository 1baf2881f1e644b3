/* What a worker needs to speak TLS as a server: certificates chosen by SNI, versions, suites, groups, ALPN, tickets.
 *
 * One per worker: the main thread makes the first from the configuration (reads files), the others are clones of it
 * (no files). A reload makes new ones; connections keep what they began with for as long as they live. */
#ifndef ADIT_TLS_CONTEXT_H
#define ADIT_TLS_CONTEXT_H

#include "adit/conf/conf.h"
#include "adit/tls/tickets.h"

/* Whether a connection may speak h2: not at all, when it can, or when it can nothing else. */
enum tls_http2 { TLS_HTTP2_OFF, TLS_HTTP2_FIRST, TLS_HTTP2_LAST };

struct ssl_st; /* OpenSSL's SSL */
struct tls_context;

/* `protocols`: ALPN names in order of preference, NULL-terminated; NULL: h2, then HTTP/1. References to the tickets are
 * its own; conf is not kept. With a ticket lifetime of 0 no tickets are issued. NULL with all errors of all
 * certificates added to `errors`; warnings (an expired certificate ...) are logged. Reads files: never on an event
 * loop. */
struct tls_context *tls_context_new(const struct conf *conf, const char *const *protocols, struct tls_tickets *tickets,
	struct conf_errors *errors) ADIT_MUST_USE;
/* One more from what `of` has loaded, sharing nothing that is written to but the tickets. NULL: out of memory. */
struct tls_context *tls_context_clone(const struct tls_context *of) ADIT_MUST_USE;
struct tls_context *tls_context_ref(struct tls_context *context);
void tls_context_unref(struct tls_context *context); /* NULL is fine; may come before the last SSL is freed */

/* A new server connection, in accept state, without BIOs, SSL_get_app_data = app; the caller's. Plaintext is cleansed
 * (SSL_OP_CLEANSE_PLAINTEXT) until the caller clears the option. NULL: out of memory, OpenSSL's queue is drained. */
struct ssl_st *tls_context_ssl(struct tls_context *context, void *app, enum tls_http2 http2) ADIT_MUST_USE;

#endif
