"""A local web page to look at a result: swipe between input and output, maps of land cover and of scores over them."""
