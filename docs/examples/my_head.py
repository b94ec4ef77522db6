from worldrl.heads.sac import SAC


class MeanSAC(SAC):
    """SAC whose actor climbs the mean of the twin critics instead of their minimum."""

    def q_pi(self, draw, states):
        return self.critic(states.feat, draw.action).mean(0)
