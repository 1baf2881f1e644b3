/* The ring as context.c and the tests see it. */
#ifndef ADIT_TLS_TICKETS_PRIV_H
#define ADIT_TLS_TICKETS_PRIV_H

#include "adit/tls/tickets.h"

enum { TICKET_NAME_BYTES = 16, TICKET_AES_BYTES = 32, TICKET_MAC_BYTES = 32 };

struct ticket_key {
	unsigned char name[TICKET_NAME_BYTES]; /* stands in clear in front of each ticket */
	unsigned char aes[TICKET_AES_BYTES], mac[TICKET_MAC_BYTES];
};

enum ticket_found { TICKET_UNKNOWN, TICKET_CURRENT, TICKET_OLD };

/* The key that issues now. False: there is none (no random bytes were to be had). The caller burns *out. */
bool tickets_current(struct tls_tickets *tickets, struct ticket_key *out) ADIT_MUST_USE;
/* The key of that name if it is still taken. The caller burns *out. */
enum ticket_found tickets_find(struct tls_tickets *tickets, const unsigned char name[static TICKET_NAME_BYTES],
	struct ticket_key *out) ADIT_MUST_USE;

/* For tests: seconds since some beginning for both clocks; NULL: the real ones. */
void tickets_set_clock(struct tls_tickets *tickets, int64_t (*now_s)(void));

#endif
