/* Flow control of HTTP/2: what clients may send, what is written to them, and who gets how much of it. */
#include "http/h2_priv.h"
#include "unit/http/h2_peer.h"

#include <criterion/criterion.h>

static void open_with(const struct conf_option *options, size_t n)
{
	peer_open(options, n);
	cr_assert(peer_start());
	peer.on_begin = job_accept;
	peer.client.logged_in = true;
}

static void setup(void)
{
	open_with(NULL, 0);
}

static void reopen(const struct conf_option *options, size_t n)
{
	peer_stop();
	peer_close();
	open_with(options, n);
}

static void teardown(void)
{
	cr_assert_not(peer.client_failed, "the client took something for an error");
	peer_stop();
	peer_close();
}

TestSuite(h2_windows, .init = setup, .fini = teardown, .timeout = 120);

static const struct h2_stream *stream_of(int32_t id)
{
	const struct h2_stream *s;

	TAILQ_FOREACH(s, &peer.h->streams, entry)
		if (s->id == id)
			return s;
	cr_assert_fail("no stream %d", id);
	return NULL;
}

static size_t sum_of_windows(void)
{
	const struct h2_stream *s;
	size_t sum = 0;

	TAILQ_FOREACH(s, &peer.h->streams, entry)
		sum += s->window;
	return sum;
}

static void check_budget(void)
{
	const struct h2 *h = peer.h;

	cr_assert_eq(h->windows, sum_of_windows());
	cr_assert_leq(h->windows + (size_t)(h->streams_max - h->count) * H2_WINDOW_FIRST, h->conf->http2.window_bytes);
}

static int32_t tunnel(void)
{
	int32_t id = peer_connect("a.example:443", NULL);

	peer_run();
	cr_assert_eq(peer_at(id)->status, 200);
	return id;
}

/* --- upwards --- */

Test(h2_windows, who_does_not_read_gets_one_window)
{
	int32_t id;

	peer.reads = false;
	peer_hello(true);
	id = tunnel();
	peer_send_pattern(id, 1000000, false);
	peer_run();
	cr_assert_eq(peer_at(id)->up_at, 65536u);
	job_at(0)->reads = true;
	job_swallow(job_at(0));
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 1000000u);
	cr_assert(peer_is_pattern(job_at(0)->in, 1000000, 0));
}

/* What was read and could not be passed on is as good as not read. */
Test(h2_windows, room_comes_back_when_bytes_have_left)
{
	int32_t id;
	size_t released = 0;

	peer_hello(true);
	id = tunnel();
	job_at(0)->chokes = true;
	peer_send_pattern(id, 1000000, false);
	for (unsigned i = 0; i < 100 && job_at(0)->in_n < 1000000; i++) {
		peer_run();
		cr_assert(job_at(0)->held_back);
		cr_assert_leq(peer_at(id)->up_at, released + stream_of(id)->window, "turn %u", i);
		released = job_at(0)->in_n;
		job_swallow(job_at(0));
		check_budget();
	}
	cr_assert_eq(job_at(0)->in_n, 1000000u);
}

static void shove(int32_t id, size_t n)
{
	peer_send_pattern(id, n, false);
	peer_run();
}

Test(h2_windows, a_window_grows_only_when_it_is_what_holds_the_client_back)
{
	int32_t id;

	peer.m->rtt_us = 100000;
	peer_hello(true);
	id = tunnel();
	for (unsigned i = 0; i < 40; i++) { /* much less than a window in a round trip */
		shove(id, 8192);
		loop_advance(peer.loop, 60);
	}
	cr_assert_eq(stream_of(id)->window, 65536u);
	for (unsigned i = 0; i < 6; i++) {
		size_t before = stream_of(id)->window;

		loop_advance(peer.loop, 1000);
		shove(id, 1); /* the quiet time is over */
		shove(id, before); /* a window in a round trip */
		loop_advance(peer.loop, 100);
		shove(id, 1);
		cr_assert_eq(stream_of(id)->window, 2 * before);
		check_budget();
	}
	for (unsigned i = 0; i < 5; i++) { /* and not above what is configured */
		shove(id, 4000000);
		loop_advance(peer.loop, 100);
	}
	cr_assert_eq(stream_of(id)->window, peer.conf->http2.stream_window_bytes);
	check_budget();
	/* it is what the client sees */
	cr_assert_geq(nghttp2_session_get_stream_remote_window_size(peer.session, id), 2 * 1024 * 1024);
	cr_assert_leq(nghttp2_session_get_stream_remote_window_size(peer.session, id), 4 * 1024 * 1024);
}

/* Behind a balancer the kernel sees only the balancer: then our own SETTINGS tell. */
Test(h2_windows, the_round_trip_is_measured_as_well)
{
	int32_t id;

	peer_hello(true);
	(void)peer_step(); /* the client's preface */
	loop_advance(peer.loop, 80); /* our SETTINGS travel */
	peer_run();
	cr_assert_eq(peer.h->rtt_ms, 80u);
	id = tunnel();
	shove(id, 65536);
	loop_advance(peer.loop, 40);
	shove(id, 1);
	cr_assert_eq(stream_of(id)->window, 65536u, "half a round trip says nothing");
	loop_advance(peer.loop, 40);
	shove(id, 1);
	cr_assert_eq(stream_of(id)->window, 2 * 65536u);
}

Test(h2_windows, the_sum_of_windows_stays_under_the_cap)
{
	int32_t ids[16];

	reopen((struct conf_option[]){ { "http2.window", "2MiB" }, { "http2.streams", "16" } }, 2);
	peer_hello(true);
	for (unsigned i = 0; i < 8; i++)
		ids[i] = tunnel();
	for (unsigned i = 0; i < 8; i++) {
		for (unsigned k = 0; k < 8; k++) {
			shove(ids[i], 1000000);
			loop_advance(peer.loop, 1);
		}
		check_budget();
	}
	cr_assert_eq(peer.h->windows + 8 * (size_t)H2_WINDOW_FIRST, 2u * 1024 * 1024, "nothing of the cap is left over");
	for (unsigned i = 8; i < 16; i++) { /* those who come later have their first window */
		ids[i] = tunnel();
		check_budget();
	}
	cr_assert_leq(peer.h->windows, 2u * 1024 * 1024);
	for (unsigned i = 0; i < 16; i++) {
		job_close(job_at(i), STREAM_CLOSE_ABORT);
		peer_run();
		check_budget();
	}
	cr_assert_eq(peer.h->windows, 0u);
	ids[0] = tunnel(); /* and now there is room again */
	for (unsigned k = 0; k < 8; k++) {
		shove(ids[0], 1000000);
		loop_advance(peer.loop, 1);
	}
	cr_assert_eq(stream_of(ids[0])->window, 1024u * 1024);
}

Test(h2_windows, streams_are_no_more_than_the_cap_has_windows)
{
	reopen((struct conf_option[]){ { "http2.window", "1MiB" } }, 1);
	peer_hello(true);
	for (unsigned i = 0; i < 20; i++)
		(void)peer_connect("a.example:443", NULL);
	peer_run();
	cr_assert_eq(peer.count, 16u);
	cr_assert_eq(peer.h->windows, 1024u * 1024);
}

/* 100 streams whose targets take nothing: the sum is what they may keep here, and the others are not hurt. */
Test(h2_windows, stalled_targets)
{
	int32_t ids[101];
	size_t held = 0;

	peer_hello(true);
	peer.reads = false;
	for (unsigned i = 0; i < 100; i++) {
		ids[i] = tunnel();
		shove(ids[i], 200000);
		held += peer_at(ids[i])->up_at;
		cr_assert_eq(peer_at(ids[i])->up_at, 65536u);
	}
	cr_assert_leq(held, peer.conf->http2.window_bytes);
	peer.reads = true;
	ids[100] = tunnel();
	shove(ids[100], 10000000);
	cr_assert_eq(job_at(100)->in_n, 10000000u);
	check_budget();
}

/* Padding and bytes for streams that are gone are room, too. */
Test(h2_windows, no_room_leaks)
{
	struct frames *f = calloc(1, sizeof(*f));
	static uint8_t padded[1000] = { 200 };
	uint32_t id = 1;

	put_preface(f);
	put_settings(f, 0, 0);
	put_connect(f, id, "a.example:443", false);
	peer_feed(f);
	for (unsigned i = 0; i < 300; i++) {
		f->n = 0;
		for (unsigned k = 0; k < 50; k++)
			put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, id, padded, sizeof(padded));
		peer_feed(f);
	}
	cr_assert_eq(job_at(0)->in_n, 300u * 50 * 799);
	job_close(job_at(0), STREAM_CLOSE_ABORT);
	peer_run();
	for (unsigned i = 0; i < 600; i++) { /* 30 MB for a stream that is no more: the client has not heard yet */
		f->n = 0;
		for (unsigned k = 0; k < 50; k++)
			put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, id, padded, sizeof(padded));
		peer_feed(f);
		cr_assert_not(peer.closed, "after %u", i);
	}
	free(f);
}

/* --- downwards --- */

Test(h2_windows, room_follows_the_clients_windows)
{
	struct stream *s;
	int32_t id;

	peer_hello(false);
	id = tunnel();
	s = job_at(0)->s;
	cr_assert_eq(stream_room(s), 4u * H2_CHUNK_BYTES, "as many whole frames as 65535 bytes have");
	job_write(job_at(0), "12345", 5);
	cr_assert_eq(stream_room(s), 4u * H2_CHUNK_BYTES);
	peer_run();
	job_supply(job_at(0), 100000, false);
	peer_run();
	cr_assert_eq(peer_at(id)->n, 65535u);
	cr_assert_eq(stream_room(s), 0u);
	cr_assert_eq(stream_queued(s), 0u, "nothing waits that has no window");
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, id, 100), 0);
	peer_run();
	cr_assert_eq(stream_room(s), 0u, "the connection has none");
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, 0, 50), 0);
	peer_run();
	cr_assert_eq(peer_at(id)->n, 65585u);
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, 0, 100000), 0);
	peer_run();
	cr_assert_eq(peer_at(id)->n, 65635u);
	cr_assert_eq(nghttp2_submit_settings(peer.session, 0,
			 &(nghttp2_settings_entry){ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 65535 + 1000 }, 1), 0);
	peer_run();
	cr_assert_eq(peer_at(id)->n, 66635u);
	cr_assert_eq(nghttp2_submit_settings(peer.session, 0,
			 &(nghttp2_settings_entry){ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0 }, 1), 0);
	peer_run();
	cr_assert_eq(stream_room(s), 0u, "below zero is none");
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, id, 200000), 0);
	peer_run();
	cr_assert_eq(peer_at(id)->n, 100005u);
	cr_assert(peer_is_pattern(peer_at(id)->data + 5, 100000, 0));
}

static const nghttp2_settings_entry wide = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 30 };

static void hello_wide(void)
{
	peer_hello_settings(true, &wide, 1);
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, 0, 1 << 30), 0);
	peer_run();
}

Test(h2_windows, room_follows_the_connection_below)
{
	int32_t id;

	hello_wide();
	id = tunnel();
	peer.m->window = 0;
	job_supply(job_at(0), 5000000, true);
	peer_run();
	cr_assert_lt(job_at(0)->supplied, 3u * 1024 * 1024);
	cr_assert_leq(peer.h->out_total, (size_t)H2_OUT_MAX * 2);
	cr_assert_leq(peer.m->queue_n, (size_t)H2_TURN_BYTES + H2_OUT_MAX);
	for (unsigned i = 0; i < 10000 && !peer_at(id)->ended; i++) {
		mem_drain(peer.m, 100000);
		peer_run();
		peer_forget();
	}
	cr_assert_eq(peer_at(id)->n, 5000000u);
	cr_assert(peer_is_pattern(peer_at(id)->data, 5000000, 0));
	cr_assert(peer_at(id)->ended);
}

enum { LARGE = 8 * 1024 * 1024 };

/* A client whose windows are so large, and who opens none by itself. */
static int32_t large_tunnel(void)
{
	const nghttp2_settings_entry large = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, LARGE };

	peer_hello_settings(false, &large, 1);
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, 0, 1 << 30), 0);
	peer_run();
	return tunnel();
}

/* Firefox opens a tunnel's window only when DATA comes by it: it is asked with single bytes. */
Test(h2_windows, the_last_bytes_of_a_large_window_ask_for_more)
{
	size_t first, asked = 0;
	int32_t id = large_tunnel();

	job_supply(job_at(0), LARGE + 300000, true);
	peer_run();
	peer_forget();
	first = peer_at(id)->n;
	cr_assert(first < LARGE && first > LARGE - 1000, "%zu", first);
	for (unsigned i = 0; i < 120; i++) {
		size_t before = peer_at(id)->n;

		loop_advance(peer.loop, 1000);
		peer_run();
		cr_assert_leq(peer_at(id)->n, before + 10, "they are few, and the longer the fewer");
		asked += peer_at(id)->n > before;
	}
	cr_assert_gt(asked, 2u);
	cr_assert_lt(peer_at(id)->n, (size_t)LARGE, "some are left to ask with");
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, id, 200000), 0);
	peer_run();
	cr_assert_gt(peer_at(id)->n, first + 190000, "the window is opened, and used at once");
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, id, 1 << 20), 0);
	peer_run();
	cr_assert_eq(peer_at(id)->n, LARGE + 300000u);
	cr_assert(peer_is_pattern(peer_at(id)->data, LARGE + 300000, 0));
	cr_assert(peer_at(id)->ended);
}

/* The end does not overtake them. */
Test(h2_windows, the_end_is_behind_the_bytes_that_ask)
{
	int32_t id = large_tunnel();

	job_supply(job_at(0), LARGE - 100, true);
	peer_run();
	cr_assert(peer_at(id)->n < LARGE - 100u && !peer_at(id)->ended);
	cr_assert_eq(job_at(0)->drained, 0u, "the end's leaving was told too early");
	cr_assert_eq(nghttp2_submit_window_update(peer.session, 0, id, 1 << 20), 0);
	peer_run();
	cr_assert_eq(peer_at(id)->n, LARGE - 100u);
	cr_assert(peer_at(id)->ended);
	cr_assert_geq(job_at(0)->drained, 1u);
}

Test(h2_windows, frames_fill_tls_records)
{
	struct frame f;
	size_t at = 0, all = 0;
	unsigned crumbs = 0;

	hello_wide();
	(void)tunnel();
	job_supply(job_at(0), 3000000, false);
	peer_run();
	while (next_frame(&at, &f)) {
		if (f.type != NGHTTP2_DATA)
			continue;
		cr_assert_leq(f.n, (size_t)H2_CHUNK_BYTES);
		all += f.n;
		crumbs += f.n < H2_CHUNK_BYTES;
	}
	cr_assert_eq(all, 3000000u);
	cr_assert_leq(crumbs, 1u, "%u frames that are not full", crumbs);
}

/* 100 streams, a client that reads nothing: little waits for it, all streams together. */
Test(h2_windows, stalled_clients)
{
	size_t most = 0;

	hello_wide();
	for (unsigned i = 0; i < 100; i++)
		(void)tunnel();
	peer.m->window = 0;
	for (unsigned i = 0; i < 100; i++) {
		job_supply(job_at(i), 10000000, false);
		peer_run();
	}
	for (unsigned i = 0; i < 100; i++)
		most += stream_queued(job_at(i)->s);
	cr_assert_eq(most, peer.h->out_total);
	cr_assert_leq(most + peer.m->queue_n, 2u * H2_OUT_MAX + H2_TURN_BYTES, "%zu bytes wait", most + peer.m->queue_n);
}

/* 100 streams that all have much: each gets on. */
Test(h2_windows, nobody_starves)
{
	size_t least, most;

	hello_wide();
	for (unsigned i = 0; i < 100; i++)
		(void)tunnel();
	peer.m->window = 0;
	for (unsigned i = 0; i < 100; i++)
		job_supply(job_at(i), 300000, true);
	for (unsigned round = 0; round < 40000; round++) {
		bool done = true;

		mem_drain(peer.m, 50000);
		peer_run();
		peer_forget();
		least = SIZE_MAX;
		most = 0;
		for (unsigned i = 0; i < 100; i++) {
			size_t n = peer_at((int32_t)(2 * i + 1))->n;

			least = n < least ? n : least;
			most = n > most ? n : most;
			done = done && peer_at((int32_t)(2 * i + 1))->ended;
		}
		cr_assert_leq(most - least, 100000u, "round %u: from %zu to %zu", round, least, most);
		if (done)
			break;
	}
	for (unsigned i = 0; i < 100; i++) {
		cr_assert_eq(peer_at((int32_t)(2 * i + 1))->n, 300000u);
		cr_assert(peer_at((int32_t)(2 * i + 1))->ended);
	}
}

/* Four tunnels; each depends exclusively on the one before, as Chromium has it. */
static void chain(void)
{
	struct frames *f = calloc(1, sizeof(*f));

	put_preface(f);
	put_settings(f, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 30);
	put_u32_frame(f, NGHTTP2_WINDOW_UPDATE, 0, 1 << 30);
	for (uint32_t i = 0; i < 4; i++) {
		char block[300] = { 0 };

		if (i > 0)
			block[3] = (char)(2 * i - 1);
		block[0] = (char)0x80;
		block[4] = (char)255;
		put_frame(f, NGHTTP2_HEADERS, NGHTTP2_FLAG_PRIORITY | NGHTTP2_FLAG_END_HEADERS, 2 * i + 1, block,
		    5 + put_fields(block + 5, sizeof(block) - 5, ":method: CONNECT\n:authority: a.example:443\n"));
	}
	peer_feed(f);
	free(f);
	cr_assert_eq(peer.count, 4u);
	peer.m->window = 0;
}

/* Lets half of 4 times n bytes go: a quarter of these is each one's. */
static void expect_shares(size_t n)
{
	size_t got[4] = { 0 }, at = 0, all = 0;
	struct frame frame;

	while (all < 2 * n) {
		mem_drain(peer.m, 30000);
		peer_run();
		while (next_frame(&at, &frame))
			if (frame.type == NGHTTP2_DATA) {
				got[frame.id / 2] += frame.n;
				all += frame.n;
			}
	}
	for (unsigned i = 0; i < 4; i++)
		cr_assert(got[i] > all / 4 * 9 / 10 && got[i] < all / 4 * 11 / 10, "stream %u got %zu of %zu", 2 * i + 1, got[i], all);
}

Test(h2_windows, a_chain_of_dependencies_gives_equal_shares)
{
	chain();
	for (unsigned i = 0; i < 4; i++)
		job_supply(job_at(i), 3000000, false);
	expect_shares(1500000);
}

/* Not thanks to those who write little at a time. */
Test(h2_windows, long_queues_have_equal_shares)
{
	char *bytes = calloc(1, 1500000);

	chain();
	for (unsigned i = 0; i < 4; i++)
		job_write(job_at(i), bytes, 1500000);
	free(bytes);
	expect_shares(1500000);
}

/* --- large frames: each is read to where it can stay --- */

static size_t put_data(struct frames *f, uint32_t id, size_t at, size_t n)
{
	char bytes[16384];

	for (size_t i = 0; i < n; i++)
		bytes[i] = peer_pattern(at + i);
	put_frame(f, NGHTTP2_DATA, 0, id, bytes, n);
	return n;
}

static size_t put_padded_data(struct frames *f, uint32_t id, size_t at, size_t n)
{
	char bytes[16384] = { 100 };

	for (size_t i = 0; i < n; i++)
		bytes[1 + i] = peer_pattern(at + i);
	put_frame(f, NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, id, bytes, 1 + n + 100);
	return n;
}

/* Two tunnels whose frames alternate, with a small one and one of another kind between them. */
static void put_mixture(struct frames *f, size_t sent[2])
{
	static const size_t sizes[] = { 16384, 16384, 5000, 4095, 16384, 1, 4096, 16383 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint32_t which = i % 3 == 0, id = which ? 3 : 1;

		sent[which] += i == 2 ? put_padded_data(f, id, sent[which], sizes[i]) : put_data(f, id, sent[which], sizes[i]);
		if (i == 4)
			put_u32_frame(f, NGHTTP2_WINDOW_UPDATE, 0, 1);
	}
}

Test(h2_windows, frames_of_all_sizes_in_all_cuts)
{
	static struct frames f;

	for (size_t cut = 1; cut < 40000; cut += cut < 30 ? 1 : 997) {
		size_t sent[2] = { 0, 0 };

		f.n = 0;
		put_preface(&f);
		put_settings(&f, 0, 0);
		put_connect(&f, 1, "a.example:443", false);
		put_connect(&f, 3, "b.example:443", false);
		peer_feed(&f);
		f.n = 0;
		put_mixture(&f, sent);
		for (size_t at = 0; at < f.n; at += cut) {
			mem_feed(peer.m, f.bytes + at, cut < f.n - at ? cut : f.n - at);
			peer_run();
		}
		for (unsigned i = 0; i < 2; i++) {
			cr_assert_eq(job_at(i)->in_n, sent[i], "cut %zu: %zu of %zu", cut, job_at(i)->in_n, sent[i]);
			cr_assert(peer_is_pattern(job_at(i)->in, sent[i], 0), "cut %zu", cut);
		}
		reopen(NULL, 0);
	}
}

/* Leaves f empty. */
static void open_tunnel(struct frames *f)
{
	put_preface(f);
	put_settings(f, 0, 0);
	put_connect(f, 1, "a.example:443", false);
	peer_feed(f);
	f->n = 0;
}

/* A password comes right behind a large frame: what is read from then on is wiped again. */
Test(h2_windows, only_payload_is_not_wiped)
{
	static struct frames f;
	size_t sent = 0;

	open_tunnel(&f);
	cr_assert(peer.m->secret);
	sent += put_data(&f, 1, sent, 16384);
	mem_feed(peer.m, f.bytes, 10000);
	peer_run();
	mem_feed(peer.m, f.bytes + 10000, 100);
	peer_run();
	cr_assert_not(peer.m->secret, "in the middle of a payload");
	mem_feed(peer.m, f.bytes + 10100, f.n - 10100);
	peer_run();
	f.n = 0;
	put_connect(&f, 3, "b.example:443", false);
	peer_feed(&f);
	cr_assert(peer.m->secret, "behind it");
	cr_assert_eq(peer.count, 2u);
}

/* Payload that comes in small pieces does not hold a large chunk for each. */
Test(h2_windows, trickling_payload_takes_little)
{
	static struct frames f;
	const struct h2_chunk *c;
	unsigned chunks = 0;

	peer.reads = false;
	open_tunnel(&f);
	(void)put_data(&f, 1, 0, 16384);
	for (size_t at = 0; at < f.n; at++) {
		mem_feed(peer.m, f.bytes + at, 1);
		peer_run();
	}
	TAILQ_FOREACH(c, &stream_of(1)->in.chunks, entry)
		chunks++;
	cr_assert_leq(chunks, 2u + H2_RECORD_BYTES / 1024);
	cr_assert_eq(stream_of(1)->in.n, 16384u);
}

/* The client goes amid a payload: nothing was read to where it was to go. */
Test(h2_windows, an_end_amid_payload)
{
	static struct frames f;

	open_tunnel(&f);
	(void)put_data(&f, 1, 0, 16384);
	mem_feed(peer.m, f.bytes, 10000);
	peer_run();
	cr_assert_eq(job_at(0)->in_n, 10000u - 9);
	mem_feed_eof(peer.m, true);
	peer_run();
	cr_assert_eq(job_at(0)->gone + (job_at(0)->stream_fault != STREAM_FAULT_NONE), 1u);
	cr_assert_null(peer.h->landing);
}

/* Both ends are said, and nothing moves: the client may open as many again, and the proxy must not keep both. */
Test(h2_windows, streams_that_are_over_and_still_full_count)
{
	static struct frames f;
	unsigned refused = 0;

	reopen((struct conf_option[]){ { "http2.streams", "4" } }, 1);
	peer.on_begin = job_accept;
	peer.reads = false;
	f.n = 0;
	put_preface(&f);
	put_settings(&f, 0, 0);
	peer_feed(&f);
	for (uint32_t i = 0; i < 10; i++) {
		static const char bytes[10000];

		f.n = 0;
		put_connect(&f, 2 * i + 1, "a.example:443", false);
		peer_feed(&f);
		refused += reset_of(2 * i + 1) == NGHTTP2_REFUSED_STREAM;
		if (peer.count > i)
			job_finish(job_at(i));
		f.n = 0;
		put_frame(&f, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 2 * i + 1, bytes, sizeof(bytes));
		peer_feed(&f);
		cr_assert_leq(peer.h->count, 4u);
		cr_assert_leq(peer.h->windows, (size_t)4 * H2_WINDOW_FIRST);
	}
	cr_assert_eq(peer.count, 4u);
	cr_assert_eq(refused, 6u);
	for (unsigned i = 0; i < 4; i++) {
		job_swallow(job_at(i));
		job_close(job_at(i), STREAM_CLOSE_FLUSH);
	}
	peer_run();
	f.n = 0;
	put_connect(&f, 101, "a.example:443", false);
	peer_feed(&f);
	cr_assert_eq(peer.count, 5u, "there is room again");
}

/* Who closes all he has and opens as many in the same breath is not refused any. */
Test(h2_windows, streams_that_are_thrown_away_do_not_count)
{
	static struct frames f;

	reopen((struct conf_option[]){ { "http2.streams", "4" } }, 1);
	peer.on_begin = job_accept;
	f.n = 0;
	put_preface(&f);
	put_settings(&f, 0, 0);
	for (uint32_t id = 1; id < 9; id += 2)
		put_connect(&f, id, "a.example:443", false);
	peer_feed(&f);
	f.n = 0;
	for (uint32_t id = 1; id < 9; id += 2)
		put_u32_frame(&f, NGHTTP2_RST_STREAM, id, NGHTTP2_CANCEL);
	for (uint32_t id = 9; id < 17; id += 2)
		put_connect(&f, id, "a.example:443", false);
	peer_feed(&f);
	cr_assert_eq(peer.count, 8u);
	cr_assert_eq(peer.h->count, 4u);
}
