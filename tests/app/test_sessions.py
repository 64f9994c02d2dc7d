from app.sessions import Shelf, Stops


def test_only_the_named_run_stops() -> None:
    stops = Stops()
    one, two = stops.begin("one", "alice"), stops.begin("two", "bob")
    assert stops.stop("one") and one.is_set() and not two.is_set()
    assert not stops.stop("nobody's")


def test_a_new_run_of_a_session_ends_its_earlier_one() -> None:
    stops = Stops()
    first = stops.begin("first", "alice")
    second = stops.begin("second", "alice")
    assert first.is_set() and not second.is_set()
    stops.end("first", first)  # the late end of a replaced run
    assert stops.stop("second") and second.is_set()


def test_leaving_stops_the_runs_of_that_visitor_alone() -> None:
    stops = Stops()
    alice, bob = stops.begin("a", "alice"), stops.begin("b", "bob")
    stops.leave("alice")
    assert alice.is_set() and not bob.is_set()


def test_the_shelf_forgets_the_oldest_and_what_a_leaver_kept() -> None:
    shelf: Shelf[str] = Shelf(room=2)
    first = shelf.put("1", "alice")
    second = shelf.put("2", "bob")
    assert shelf.get(first) == "1"  # used again: now the second is the oldest
    third = shelf.put("3", "alice")
    assert shelf.get(second) is None and shelf.get(first) == "1"
    shelf.leave("alice")
    assert shelf.get(first) is None and shelf.get(third) is None


def test_names_on_the_shelf_cannot_be_guessed() -> None:
    shelf: Shelf[int] = Shelf(room=100)
    names = {shelf.put(i) for i in range(100)}
    assert len(names) == 100 and min(map(len, names)) >= 20
