/* What the proxy answers itself: requests that are not to be sent anywhere. */
#ifndef ADIT_HTTP_LOCAL_H
#define ADIT_HTTP_LOCAL_H

#include "adit/http/request.h"

/* An origin-form or asterisk-form request: health, the PAC file when r->conf has one, or a short page that
 * says what this is. Pure. */
struct response local_answer(const struct request *r, bool draining);
/* To a request that must not go any further (r->last_hop): OPTIONS, TRACE. Pure; lives as long as the request. */
struct response local_last_hop(const struct request *r);

#endif
