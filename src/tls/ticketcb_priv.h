/* Puts a ring of ticket keys to work in an SSL_CTX. */
#ifndef ADIT_TLS_TICKETCB_PRIV_H
#define ADIT_TLS_TICKETCB_PRIV_H

#include "adit/tls/tickets.h"

#include <openssl/ssl.h>

/* Makes ctx issue and take tickets by this ring, of which it holds a reference until it is freed; lifetime (0: no
 * tickets) and number of tickets are set as well. False: out of memory. */
bool ticketcb_install(struct tls_tickets *tickets, SSL_CTX *ctx, unsigned lifetime_s) ADIT_MUST_USE;

#endif
