"""A page that holds a trained net: it opens from disk in any browser, runs the net, and shows what is inside.

`graph` reads the net off its program, `kinds` is the table of layers that the page knows, `testing` runs the test set,
`contents` chooses examples and sums up the run, `page` makes one file of all that and of the scripts beside it, which
compute and draw: `layers.js` has the arithmetic of the layers, `windows.js` that of the five views.
"""

from cnnjax.app.look.contents import Tested
from cnnjax.app.look.page import write_page
from cnnjax.app.look.testing import records, test_set

__all__ = ["Tested", "records", "test_set", "write_page"]
