"""The experiment of Lu & Xu 2018 on the real archive: their Table 2 beside ours."""
