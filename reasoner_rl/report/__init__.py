"""What a run did, to look at: a page of HTML with learning curves and every response, or a terminal.

folder of a run --run_files--> Run --pages--> chunks of data --page--> one HTML file, a folder beside it, or a server
"""
