/* Which certificates serve a name that a client asks for. Made once per configuration, read by all workers. */
#ifndef ADIT_TLS_SNI_PRIV_H
#define ADIT_TLS_SNI_PRIV_H

#include "adit/tls/cert.h"

enum { SNI_KEY_TYPES = 4 };

/* One certificate per key type, as indexes into the list that sni_new got. */
struct sni_set {
	size_t count;
	size_t certs[SNI_KEY_TYPES];
};

struct sni;

/* The certificates (at least one) are borrowed and outlive it. NULL: out of memory. */
struct sni *sni_new(struct tls_cert *const *certs, size_t count) ADIT_MUST_USE;
void sni_free(struct sni *sni); /* NULL is fine */

size_t sni_set_count(const struct sni *sni);
const struct sni_set *sni_set_at(const struct sni *sni, size_t i); /* 0: the default */
/* Index of the set for a name (any bytes); 0 when no certificate has it. */
size_t sni_find(const struct sni *sni, const char *name, size_t n);

#endif
