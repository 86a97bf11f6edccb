from latent2pixel.report.terminal import HEIGHT, loss_curve


def test_a_falling_loss_falls_and_is_averaged():
    lines = loss_curve([(step, 100.0 - step) for step in range(1, 100)]).splitlines()
    drawn = [line.split("|", 1)[1] for line in lines if "|" in line][:HEIGHT]
    columns = [[index for index, dot in enumerate(line) if dot not in " ⠀"] for line in drawn]
    firsts = [line[0] for line in columns if line]
    assert len(firsts) >= HEIGHT - 1
    assert firsts == sorted(firsts)
    assert all(len(line) <= 80 for line in lines)


def test_two_steps_are_enough():
    assert "loss" in loss_curve([(1, 1.0), (2, 0.5)])
