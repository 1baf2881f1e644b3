/* What a client may cost beside its requests and its data (RFC 9113 10.5).
 *
 * One budget for each connection, in points, that refills with time and with data moved: control frames go with data,
 * and nobody needs many without. Over budget: GOAWAY ENHANCE_YOUR_CALM. Pure. */
#ifndef ADIT_SRC_HTTP_H2_GUARD_H
#define ADIT_SRC_HTTP_H2_GUARD_H

#include <stdbool.h>
#include <stddef.h>

enum h2_cost {
	H2_COST_RESET, /* RST_STREAM of the client: a request begun and thrown away (rapid reset) */
	H2_COST_FAULT, /* a stream error that we had to answer (MadeYouReset), a refused stream */
	H2_COST_SETTINGS,
	H2_COST_PING,
	H2_COST_EMPTY, /* DATA without data and without END_STREAM; CONTINUATION */
	H2_COST_OTHER, /* PRIORITY, WINDOW_UPDATE, unknown frames */
};

struct h2_guard {
	long long points;
	unsigned long long at_ms;
	size_t data; /* bytes moved that have not become points yet */
};

void h2_guard_init(struct h2_guard *g, unsigned long long now_ms);
/* False: over budget. */
bool h2_guard_spend(struct h2_guard *g, enum h2_cost cost, unsigned long long now_ms);
void h2_guard_data(struct h2_guard *g, size_t n);
/* A frame of DATA went out for which the client may say twice that it has room again, small as the frame may be. */
void h2_guard_frame(struct h2_guard *g);

#endif
