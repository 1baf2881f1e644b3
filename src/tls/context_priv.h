/* Parts of a context that tests look at. */
#ifndef ADIT_TLS_CONTEXT_PRIV_H
#define ADIT_TLS_CONTEXT_PRIV_H

#include "adit/tls/context.h"

#include <openssl/ssl.h>

SSL_CTX *context_default(const struct tls_context *context);
/* The SSL_CTX for a name a client asks for (any bytes); the default one when no certificate has it. */
SSL_CTX *context_for_name(const struct tls_context *context, const char *name, size_t n);
size_t context_count(const struct tls_context *context); /* SSL_CTXs */

#endif
