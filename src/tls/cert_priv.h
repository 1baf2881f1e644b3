/* What a loaded certificate holds: for context.c. */
#ifndef ADIT_TLS_CERT_PRIV_H
#define ADIT_TLS_CERT_PRIV_H

#include "adit/tls/cert.h"

#include <openssl/ssl.h>

struct tls_cert {
	X509 *leaf;
	STACK_OF(X509) *chain; /* what follows the leaf; maybe empty */
	EVP_PKEY *key;
	char **names;
	size_t name_count;
	char kind[32];
	int64_t expires;
};

/* The file's bytes, at most `most`, with a NUL behind them, from mem_alloc (most + 2 bytes); or NULL with a reason in
 * words, "No such file or directory". `mode` (may be NULL): the permission bits of a regular file, else 0. */
char *cert_read_file(const char *path, size_t most, size_t *size, unsigned *mode, char *reason, size_t reason_size);

#endif
