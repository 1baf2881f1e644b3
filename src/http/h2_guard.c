/* Budgets of a connection.
 *
 * The numbers: a browser that closes a page resets all its tunnels at once, 256 of them (a quarter of the budget's
 * purpose), and opens some in a second; windows are updated at most twice (stream and connection) for each frame of
 * data, or for each 4 KiB of it as Go does; settings and pings are rare. */
#include "http/h2_guard.h"

enum {
	POINTS_MAX = 4000,
	POINTS_PER_S = 200,
	BYTES_PER_POINT = 1024,
};

static const unsigned costs[] = {
	[H2_COST_RESET] = 8,
	[H2_COST_FAULT] = 8,
	[H2_COST_SETTINGS] = 40,
	[H2_COST_PING] = 10,
	[H2_COST_EMPTY] = 5,
	[H2_COST_OTHER] = 2,
};

void h2_guard_init(struct h2_guard *g, unsigned long long now_ms)
{
	*g = (struct h2_guard){ .points = POINTS_MAX, .at_ms = now_ms };
}

static void refill(struct h2_guard *g, unsigned long long now_ms)
{
	unsigned long long passed = now_ms - g->at_ms, points = passed * POINTS_PER_S / 1000;

	if (points > 0) {
		g->at_ms = now_ms;
		g->points += points < POINTS_MAX ? (long long)points : POINTS_MAX;
	}
	g->points += (long long)(g->data / BYTES_PER_POINT);
	g->data %= BYTES_PER_POINT;
	if (g->points > POINTS_MAX)
		g->points = POINTS_MAX;
}

bool h2_guard_spend(struct h2_guard *g, enum h2_cost cost, unsigned long long now_ms)
{
	refill(g, now_ms);
	g->points -= costs[cost];
	return g->points >= 0;
}

void h2_guard_frame(struct h2_guard *g)
{
	g->data += (size_t)2 * costs[H2_COST_OTHER] * BYTES_PER_POINT;
}

void h2_guard_data(struct h2_guard *g, size_t n)
{
	g->data += n;
}
