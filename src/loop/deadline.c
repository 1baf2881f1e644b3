/* Deadlines: a libevent timer each, or, under the manual clock, a sorted list that loop_advance walks. */
#include "loop/loop_priv.h"

#include "adit/base/mem.h"

#include <event2/event.h>

static void on_timer(evutil_socket_t fd ADIT_UNUSED, short what ADIT_UNUSED, void *ctx)
{
	struct deadline *d = ctx;

	d->at_ms = 0;
	d->fn(d->ctx);
}

void deadline_init(struct deadline *d, struct loop *loop, loop_fn *fn, void *ctx)
{
	*d = (struct deadline){ .loop = loop, .fn = fn, .ctx = ctx };
}

static void insert_manual(struct deadline_list *list, struct deadline *d)
{
	struct deadline *at;

	TAILQ_FOREACH(at, list, entry) {
		if (at->at_ms > d->at_ms) {
			TAILQ_INSERT_BEFORE(at, d, entry);
			return;
		}
	}
	TAILQ_INSERT_TAIL(list, d, entry);
}

bool deadline_set(struct deadline *d, unsigned in_ms)
{
	struct timeval tv = { .tv_sec = in_ms / 1000, .tv_usec = (suseconds_t)(in_ms % 1000) * 1000 };

	if (in_ms == DEADLINE_OFF) {
		deadline_clear(d);
		return true;
	}
	if (d->loop->manual) {
		deadline_clear(d);
		d->at_ms = loop_now_ms(d->loop) + in_ms;
		insert_manual(&d->loop->manual_deadlines, d);
		return true;
	}
	if (!d->timer) {
		d->timer = evtimer_new(loop_base(d->loop), on_timer, d);
		if (!d->timer)
			return false;
	}
	d->at_ms = loop_now_ms(d->loop) + in_ms;
	return evtimer_add(d->timer, &tv) == 0;
}

void deadline_clear(struct deadline *d)
{
	if (d->at_ms == 0)
		return;
	d->at_ms = 0;
	if (d->loop->manual)
		TAILQ_REMOVE(&d->loop->manual_deadlines, d, entry);
	else
		evtimer_del(d->timer);
}

void deadline_fini(struct deadline *d)
{
	if (!d->loop)
		return;
	deadline_clear(d);
	if (d->timer)
		event_free(d->timer);
	d->timer = NULL;
	d->loop = NULL;
}

void loop_advance(struct loop *loop, unsigned ms)
{
	unsigned long long until = loop->manual_ms + ms;
	struct deadline *d;

	ADIT_ASSERT(loop->manual);
	while ((d = TAILQ_FIRST(&loop->manual_deadlines)) != NULL && d->at_ms <= until) {
		loop->manual_ms = d->at_ms;
		deadline_clear(d);
		d->fn(d->ctx);
		loop_turn(loop);
	}
	loop->manual_ms = until;
	loop_turn(loop);
}
