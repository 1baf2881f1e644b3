/* Windows: how much a client may send, and how much may be sent to it.
 *
 * Upwards a stream's window is what we advertise. It begins small and grows while the client keeps it busy; bytes give
 * their room back when they have left for the target. What was advertised cannot be taken back, so what is budgeted is
 * the sum of windows, not of bytes. Downwards a writer is told how much is wanted: what the client's window takes and
 * what the connection may queue; a client that does not read costs no queue at all. */
#include "http/h2_priv.h"

enum {
	PROBED_WINDOW = 8 * 1024 * 1024, /* windows of this size and more are not used up */
	PROBES = 128, /* their last bytes: for as long as a stalled tunnel is let live, unless configured otherwise */
	PROBE_FIRST_MS = 20,
	PROBE_MOST_MS = 5000,
};

/* --- upwards --- */

static bool may_grow(const struct h2_stream *s, size_t by)
{
	const struct h2 *h = s->h;
	/* streams yet to come have a right to their first window */
	size_t reserved = h->streams_max > h->count ? (size_t)(h->streams_max - h->count) * H2_WINDOW_FIRST : 0;

	return s->window + by <= h->conf->http2.stream_window_bytes &&
	       h->windows + by + reserved <= h->conf->http2.window_bytes;
}

/* Growing: when the client sends half a window and more within a round trip, it is the window that holds it back. */
static void judge_window(struct h2_stream *s)
{
	struct h2 *h = s->h;
	unsigned long long now = loop_now_ms(h->loop), took = now - s->epoch_ms;
	unsigned rtt;
	bool filled;

	if (took == 0 || took < h->rtt_ms)
		return;
	rtt = stream_rtt_us(h->stream) / 1000;
	if (rtt < h->rtt_ms)
		rtt = h->rtt_ms; /* behind a balancer the kernel sees the balancer only */
	if (rtt == 0)
		rtt = 1;
	if (took < rtt)
		return;
	filled = (unsigned long long)s->epoch_bytes * rtt >= s->window / 2 * took;
	s->epoch_bytes = 0;
	s->epoch_ms = now;
	if (!filled || !may_grow(s, s->window))
		return;
	if (nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, s->id, (int32_t)(2 * s->window)) != 0) {
		h->session_failed = true; /* it may count on what the client was not told */
		return;
	}
	h->windows += s->window;
	s->window *= 2;
}

void h2_window_credit(struct h2_stream *s)
{
	struct h2 *h = s->h;
	size_t n = s->lent;
	int32_t received, owed;

	s->lent = 0;
	if (n == 0 || !s->open || s->client_ended || h->session_failed)
		return;
	s->epoch_bytes += n;
	judge_window(s);
	h2_post_flush(h); /* tells, or finds that there is no memory */
	if (h->session_failed)
		return;
	/* all that has come and is not here any more, padding too */
	received = nghttp2_session_get_stream_effective_recv_data_length(h->session, s->id);
	owed = received - (int32_t)s->in.n;
	if (owed > 0 && (size_t)owed >= s->window / 8 &&
	    nghttp2_submit_window_update(h->session, NGHTTP2_FLAG_NONE, s->id, owed) != 0)
		h->session_failed = true;
}

/* --- downwards --- */

/* Who is told "none" is told when there is some. */
size_t h2_window_room(struct stream *base)
{
	struct h2_stream *s = h2_stream_of(base);
	struct h2 *h = s->h;
	long long window, connection, share = H2_OUT_MAX / h->count; /* this one counts */

	if (!s->open || h->session_failed)
		return SIZE_MAX; /* the write tells */
	window = nghttp2_session_get_stream_remote_window_size(h->session, s->id);
	connection = nghttp2_session_get_remote_window_size(h->session);
	if (window > connection)
		window = connection;
	window -= (long long)s->out.n;
	if (!s->replied && s->out.n == 0)
		return H2_HEAD_ROOM; /* heads need no window, and behind one is read only what is asked for */
	if (share < H2_SHARE_MIN)
		share = H2_SHARE_MIN;
	if (window > 0 && h->out_total < H2_OUT_MAX && stream_queued(h->stream) == 0) {
		/* nothing waits: a turn's worth leaves at once. Whole frames, lest each turn ends with a crumb */
		if (h->out_total == 0 && share < H2_TURN_BYTES)
			share = H2_TURN_BYTES;
		if (window > share)
			window = share;
		if (window > H2_TURN_BYTES)
			window = H2_TURN_BYTES;
		if (window > (long long)h->buffer_bytes) /* the relay's are of the same size */
			window = (long long)h->buffer_bytes;
		if (window > H2_CHUNK_BYTES)
			window -= window % H2_CHUNK_BYTES;
		return (size_t)window;
	}
	if (!s->is_hungry) {
		TAILQ_INSERT_TAIL(&h->hungry, s, hungry_entry);
		h->hungry_count++;
		s->is_hungry = true;
	}
	return 0;
}

void h2_window_probe(void *stream)
{
	struct h2_stream *s = stream;

	s->probing = true;
	h2_stream_resume(s);
}

/* Keeps them back until the client has opened its window, or until it is time to send one of them. */
static size_t withhold(struct h2_stream *s, size_t n)
{
	if (s->probing) {
		s->probing = false;
		return 1;
	}
	if (s->probe.at_ms == 0) {
		s->probe_ms = s->probe_ms == 0 ? PROBE_FIRST_MS : 2 * s->probe_ms;
		if (s->probe_ms > PROBE_MOST_MS)
			s->probe_ms = PROBE_MOST_MS;
		if (!deadline_set(&s->probe, s->probe_ms))
			return n;
	}
	s->withheld = true;
	return 0;
}

/* How many of n bytes may go now. Firefox opens the window of a tunnel only when DATA comes by it: once the window was
 * used up while a page took nothing, each side would wait for the other. So the last bytes of a large window go out one
 * by one, and each asks for the room that has become free. */
size_t h2_window_allows(struct h2_stream *s, size_t n)
{
	long long window = nghttp2_session_get_stream_remote_window_size(s->h->session, s->id);

	if (window > s->window_seen)
		s->window_seen = window;
	if (s->connect && s->window_seen >= PROBED_WINDOW && (long long)n > window - PROBES)
		return window > PROBES ? (size_t)(window - PROBES) : withhold(s, n);
	deadline_clear(&s->probe);
	s->probe_ms = 0;
	return n;
}
