/* A certificate chain and its private key, read from PEM files and judged: what stands in the way is said in sentences
 * that name the file and what to do about it.
 *
 * Reads files: at start, at reload and in `adit check`, never on an event loop. Never asks on a terminal. */
#ifndef ADIT_TLS_CERT_H
#define ADIT_TLS_CERT_H

#include "adit/base/obj.h"
#include <stdbool.h>

struct tls_cert;

enum tls_cert_level {
	TLS_CERT_WARNING, /* it can be served, but clients will or may refuse it: expired, no names, broken chain ... */
	TLS_CERT_ERROR, /* it cannot be served: unreadable, no PEM, encrypted, key does not match, weak key */
};

/* One complete sentence, without line end, without the configuration's position. */
typedef void tls_cert_report_fn(void *ctx, enum tls_cert_level level, const char *sentence);

/* chain_path: the server's certificate first, then what leads to the root. key_path NULL: the key is in the chain's
 * file. NULL after at least one TLS_CERT_ERROR was reported; report must not be NULL. */
struct tls_cert *tls_cert_load(const char *chain_path, const char *key_path, tls_cert_report_fn *report,
	void *ctx) ADIT_MUST_USE;
/* The same for its reports alone: true when the pair can be served. */
bool tls_cert_check(const char *chain_path, const char *key_path, tls_cert_report_fn *report, void *ctx);
void tls_cert_free(struct tls_cert *cert); /* NULL is fine */

/* DNS names in lower case ("*.example.org" too), then addresses as text; without any of them the subject's common
 * name. */
size_t tls_cert_name_count(const struct tls_cert *cert);
const char *tls_cert_name(const struct tls_cert *cert, size_t i);
const char *tls_cert_key_kind(const struct tls_cert *cert); /* "ECDSA P-256", "RSA 2048", "Ed25519" */
int64_t tls_cert_expires(const struct tls_cert *cert); /* seconds since the epoch, UTC */

#endif
