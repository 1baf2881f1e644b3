/* OpenSSL's per-thread error queue as one readable reason. */
#ifndef ADIT_TLS_SSLERR_PRIV_H
#define ADIT_TLS_SSLERR_PRIV_H

#include <stddef.h>

enum { SSLERR_TEXT_SIZE = 160 };

/* Empties the queue; the oldest error, which is the cause, in words: "bad base64 decode (PEM routines)". Returns
 * buf. */
const char *sslerr_drain(char *buf, size_t size);

#endif
