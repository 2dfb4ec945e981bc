"""testpmd's net_iavf on VFs with more than 16 queue pairs, and single queues of a running port."""

import pytest

from emuiavf.control.client import ControlClient, states
from emuiavf.control.place import SUFFIX, runtime_dir
from tests.dpdk.conftest import Bench
from tests.dpdk.test_flows import default_rss, mixture
from tests.dpdk.tester import Tester
from tests.dpdk.testpmd import Testpmd
from tests.model import flows as model

# net_iavf of 25.11 posts 64 buffers at a time or none: with rings of 64 it would receive 63 frames.
SMALL = ["--rxd=128", "--txd=64", "--total-num-mbufs=60000", "--mbuf-size=1152"]
SMALL_FRAMES = ["--max-pkt-len=1000"]
MEMORY = ["--no-huge", "-m", "384"]
# What has come while testpmd did not forward is not to be thrown away; a link event follows every
# start, and would be said in the middle of the prompt.
TOLD = ["--no-flush-rx", "--mask-event=intr_lsc"]


def serve(bench: Bench, options: str) -> None:
    bench.serve("--connect", "emu_iavf0,emu_iavf1", devices=2, options=options)


def answered(bench: Bench) -> dict[str, int]:
    """What testpmd has asked so far, and nothing of it was refused."""
    assert bench.backend is not None
    with ControlClient(str(runtime_dir() / f"{bench.backend.pid}{SUFFIX}")) as connection:
        (state,) = (one for one in states(connection) if one.name == "emu_iavf0")
    assert state.refused == {}
    return state.answered


def packets(bench: Bench, queues: int, way: str = "rx") -> list[int]:
    assert bench.backend is not None
    device = bench.backend.stats("emu_iavf0")
    return [device.get(f"{way}-{queue}.packets", 0) for queue in range(queues)]


def rss_of(testpmd: Testpmd, queues: int, entries: int) -> model.Rss:
    """What net_iavf asks for by itself, with the table that goes round the queues."""
    rss = default_rss(testpmd)
    rss.lut = bytes(i % queues for i in range(entries))
    return rss


@pytest.mark.newest
@pytest.mark.parametrize(
    ("queues", "options"), [(32, ",queues=64"), (256, ",max-queues=256")], ids=["32", "256"]
)
def test_frames_meet_every_queue_as_the_model_says(bench: Bench, queues: int, options: str) -> None:
    serve(bench, options)
    arguments = [f"--rxq={queues}", f"--txq={queues}", *SMALL, *SMALL_FRAMES, *TOLD]
    frames = mixture(12, 1500)
    with (
        Tester(bench.folder / "vf1.sock") as tester,
        bench.testpmd(options=arguments, memory=MEMORY) as testpmd,
    ):
        assert "Redirection table size: 512" in testpmd("show port info 0")
        testpmd("port config all rss all")
        testpmd("start")
        rss = rss_of(testpmd, queues, 512)
        due = [rss.queue(frame) for frame in frames]
        assert len(set(due)) > 0.7 * queues
        back = [frame.data for frame in tester.exchange(frames)]
        assert sorted(back) == sorted(frames)
        assert packets(bench, queues) == [due.count(queue) for queue in range(queues)]
        # Each queue's frames are sent from the Tx queue of the same number.
        assert packets(bench, queues, "tx") == packets(bench, queues)
        testpmd("stop")
        testpmd("port stop 0")
        asked = answered(bench)
        if queues == 32:
            # Fewer queues again: the large VF is given back.
            testpmd("port config all rxq 2")
            testpmd("port config all txq 2")
            testpmd("port start 0")
            testpmd("start")
            for at in range(0, 300, 60):
                part = frames[at : at + 60]
                assert sorted(one.data for one in tester.exchange(part)) == sorted(part)
        assert testpmd.quit() == 0
    assert asked["REQUEST_QUEUES"] == 1
    assert asked["GET_MAX_RSS_QREGION"] == 1
    assert asked["CONFIG_VSI_QUEUES"] == queues // 32
    assert asked["MAP_QUEUE_VECTOR"] == -(-queues // 128)
    assert asked["ENABLE_QUEUES_V2"] == 2 * queues
    assert asked["DISABLE_QUEUES_V2"] == 1
    assert not asked.keys() & {"ENABLE_QUEUES", "DISABLE_QUEUES", "CONFIG_IRQ_MAP"}


@pytest.mark.parametrize("queues", [4, 20])
def test_single_queues_stop_and_start_while_frames_come(bench: Bench, queues: int) -> None:
    """testpmd forwards nothing while it is told; what comes meanwhile waits in the other rings."""
    serve(bench, f",queues={queues}")
    arguments = [f"--rxq={queues}", f"--txq={queues}", "--rxd=128", "--txd=128", *TOLD]
    frames = mixture(13, 400)
    with Tester(bench.folder / "vf1.sock") as tester, bench.testpmd(options=arguments) as testpmd:
        testpmd("port config all rss all")
        testpmd("start")
        rss = rss_of(testpmd, queues, 64 if queues == 4 else 512)
        victim = queues - 2
        others = [frame for frame in frames if rss.queue(frame) not in (0, victim)][:100]

        def all_come_back(part: list[bytes], rss: model.Rss) -> None:
            before = packets(bench, queues)
            assert sorted(one.data for one in tester.exchange(part)) == sorted(part)
            grown = [new - old for new, old in zip(packets(bench, queues), before, strict=True)]
            due = [rss.queue(frame) for frame in part]
            assert grown == [due.count(queue) for queue in range(queues)]

        all_come_back(frames, rss)
        for _ in range(2):
            testpmd("stop")
            tester.send(others[:30])
            for command in (f"port 0 rxq {victim} stop", f"port 0 txq {victim} stop"):
                testpmd(command)
            tester.send(others[30:])
            testpmd("start")
            back = [frame.data for frame in tester.receive(len(others))]
            assert sorted(back) == sorted(others)
            all_come_back(others, rss)
            testpmd("stop")
            tester.send(others[:30])
            for command in (f"port 0 rxq {victim} start", f"port 0 txq {victim} start"):
                testpmd(command)
            testpmd("start")
            assert sorted(one.data for one in tester.receive(30)) == sorted(others[:30])
            all_come_back(frames, rss)
        # Rings of other lengths, and one of its own.
        testpmd("stop")
        testpmd("port stop 0")
        testpmd("port config all rxd 256")
        testpmd("port config all txd 512")
        testpmd(f"port config 0 rxq {victim} ring_size 96")
        testpmd("port start 0")
        assert "Number of RXDs: 96" in testpmd(f"show rxq info 0 {victim}")
        assert "Number of RXDs: 256" in testpmd("show rxq info 0 1")
        testpmd("port config all rss all")
        testpmd("start")
        rss = rss_of(testpmd, queues, 64 if queues == 4 else 512)  # the key is another one
        for _ in range(3):
            all_come_back(frames, rss)
        assert testpmd.quit() == 0
    assert_every_queue_was_sent_from(bench, queues)


def assert_every_queue_was_sent_from(bench: Bench, queues: int) -> None:
    assert packets(bench, queues, "tx") == packets(bench, queues)
    assert all(packets(bench, queues))
